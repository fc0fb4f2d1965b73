"""Running queries over the items of a container, a page at a time."""

from collections import OrderedDict
from typing import Any, Final

from emulator.cosmos.access import access_for
from emulator.cosmos.continuation import Resume
from emulator.cosmos.execution import Execution
from emulator.cosmos.resources import Container
from emulator.cosmos.selection import Page, Row, Scope, single
from emulator.cosmos.sql.evaluate import compile_expression
from emulator.cosmos.sql.parser import parse
from emulator.cosmos.sql.plan import bound
from emulator.cosmos.sql.tree import Query
from emulator.cosmos.values import UNDEFINED, encode, order_key

_KEPT_RESULTS_MAX: Final = 4
_KEPT_ROWS_MAX: Final = 200_000


class QueryRunner:
    """Runs queries; keeps a few sorted results, so that paging through one does not sort it for each page."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], list[Row]] = OrderedDict()

    def run(
        self,
        container: Container,
        text: str,
        parameters: dict[str, Any],
        *,
        scope: Scope,
        page_items: int,
        resume: Resume,
        now_s: float,
    ) -> Page:
        """One page of the query `text`.

        Raises:
            CosmosError: 400 for a query that the container's indexes cannot serve, or that cannot be evaluated.
        """
        query = parse(text)
        execution = Execution(container, query, parameters, scope, now_s)
        if execution.aggregation is not None:
            return execution.aggregate()
        if query.distinct:
            return execution.distinct_page(page_items, resume)
        index = execution.serving_index()
        if index is not None:
            return execution.page(execution.along_index(*index, resume), page_items, resume)
        if not query.order_by:
            return execution.page(execution.along_items(resume), page_items, resume)
        rows = self._sorted_rows(text, execution)
        return execution.page(execution.along_rows(rows, resume), page_items, resume)

    @staticmethod
    def names_one_key(container: Container, query: Query, parameters: dict[str, Any], scope: Scope) -> bool:
        """Whether the filter itself pins one partition key, so that the query needs no fan-out."""
        if scope.key is not None:
            return True
        keys = access_for(query, parameters, container.definition).keys
        return keys is not None and len(keys) == 1

    def _sorted_rows(self, text: str, execution: "Execution") -> list[Row]:
        """All rows in order, from memory if nothing was written since they were sorted."""
        key = (text, *execution.identity())
        rows = self._kept.pop(key, None)
        if rows is None:
            rows = execution.all_rows()
        if len(rows) <= _KEPT_ROWS_MAX:
            self._kept[key] = rows
        while len(self._kept) > _KEPT_RESULTS_MAX:
            self._kept.popitem(last=False)
        return rows


def run_over(documents: list[dict[str, Any]], text: str, parameters: dict[str, Any]) -> list[bytes]:
    """A query over a few documents in memory: the metadata of an account.

    Raises:
        CosmosError: 400 for a malformed query, and for aggregates.
    """
    query = parse(text)
    where = compile_expression(query.where) if query.where is not None else None
    found = [document for document in documents if where is None or where(document, parameters) is True]
    for expression, descending in reversed(query.order_by):
        evaluator = compile_expression(expression)
        found.sort(key=lambda document: order_key(evaluator(document, parameters)), reverse=descending)
    offset = bound(query.offset, parameters, "OFFSET") or 0
    top, limit = bound(query.top, parameters, "TOP"), bound(query.limit, parameters, "LIMIT")
    most = top if limit is None else limit
    found = found[offset : None if most is None else offset + most]
    if query.select is None:
        return [encode(document) for document in found]
    project = compile_expression(single(query))
    values = [project(document, parameters) for document in found]
    return [encode(value) for value in values if value is not UNDEFINED]
