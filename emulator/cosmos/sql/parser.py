"""Whole queries: recursive descent over clauses."""

from functools import lru_cache
from typing import Final

from emulator.cosmos.errors import bad_request, not_covered
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.expressions import RESERVED, ExpressionParser
from emulator.cosmos.sql.tree import Expression, Query

CACHED_CHARACTERS_MAX: Final = 8 * 1024
"""Longer texts are parsed each time, so that the cache of trees stays small."""


class _Parser(ExpressionParser):
    """One pass over the clauses of one query."""

    def query(self) -> Query:
        """`SELECT … FROM … WHERE … ORDER BY … OFFSET … LIMIT …`, whole."""
        self._expect("SELECT")
        distinct = self._takes("DISTINCT")
        top = self._bound() if self._takes("TOP") else None
        if not distinct:
            distinct = self._takes("DISTINCT")
        start = self._at
        self._skip_select()
        self._from()
        after_from = self._at
        self._at = start
        select = self._select()
        self._at = after_from
        where = self.expression() if self._takes("WHERE") else None
        if self._word() == "GROUP":
            raise not_covered("GROUP BY")
        order_by = self._order_by() if self._takes("ORDER", "BY") else ()
        offset = limit = None
        if self._takes("OFFSET"):
            offset = self._bound()
            self._expect("LIMIT")
            limit = self._bound()
        if self._peek().kind != "end":
            raise self._error()
        if top is not None and limit is not None:
            raise bad_request("TOP and OFFSET LIMIT cannot stand in the same query.")
        return Query(
            alias=self.alias, select=select, distinct=distinct, top=top, where=where, order_by=order_by,
            offset=offset, limit=limit,
        )  # fmt: skip

    def condition(self) -> tuple[str, Expression | None]:
        """`FROM c WHERE …` as a patch's condition has it: the alias and the predicate."""
        self._from()
        where = self.expression() if self._takes("WHERE") else None
        if self._peek().kind != "end":
            raise self._error()
        return self.alias, where

    def _skip_select(self) -> None:
        """Go to the FROM clause: the alias must be known before the SELECT clause can be read."""
        depth = 0
        while self._peek().kind != "end":
            text = self._peek().text
            if text in "([{" and text:
                depth += 1
            elif text in ")]}" and text:
                depth -= 1
            elif depth == 0 and self._word() == "FROM" and self._tokens[self._at - 1].text != ".":
                return
            self._at += 1
        raise not_covered("A query without FROM")

    def _from(self) -> None:
        self._expect("FROM")
        self.alias = self._identifier()
        if self._peek().text in (".", "[") or self._word() == "IN":
            raise not_covered("FROM a path inside of the items")
        if self._takes("AS") or (self._peek().kind == "word" and self._word() not in RESERVED):
            self.alias = self._identifier()
        if self._word() == "JOIN" or self._peek().text == ",":
            raise not_covered("JOIN")

    def _select(self) -> tuple[tuple[Expression, str], ...] | Expression | None:
        if self._takes("*"):
            select: tuple[tuple[Expression, str], ...] | Expression | None = None
        elif self._takes("VALUE"):
            select = self.expression()
        else:
            select = self._select_list()
        if self._word() != "FROM":
            raise self._error()
        return select

    def _select_list(self) -> tuple[tuple[Expression, str], ...]:
        members: list[tuple[Expression, str]] = []
        unnamed = 0
        while True:
            expression = self.expression()
            if self._takes("AS") or (self._peek().kind == "word" and self._word() not in RESERVED):
                name = self._identifier()
            elif isinstance(expression, tree.Member) and isinstance(expression.key, tree.Literal):
                name = str(expression.key.value)
            elif isinstance(expression, tree.Name):
                name = expression.text
            else:
                unnamed += 1
                name = f"${unnamed}"
            if name in {taken for _, taken in members}:
                raise bad_request(f"The SELECT clause names '{name}' twice.")
            members.append((expression, name))
            if not self._takes(","):
                return tuple(members)

    def _order_by(self) -> tuple[tuple[Expression, bool], ...]:
        members = []
        while True:
            expression = self.expression()
            descending = self._takes("DESC")
            if not descending:
                self._takes("ASC")
            members.append((expression, descending))
            if not self._takes(","):
                return tuple(members)

    def _bound(self) -> Expression:
        """The number of TOP, OFFSET or LIMIT: an integer or a parameter."""
        token = self._next()
        if token.kind == "parameter":
            return tree.Parameter(token.text)
        if token.kind == "number" and token.text.isdecimal():
            return tree.Literal(int(token.text))
        self._at -= 1
        raise self._error()


def parse(text: str) -> Query:
    """The tree of a query.

    Raises:
        CosmosError: 400 where it is malformed, or uses what is not covered.
    """
    return _parse_cached(text) if len(text) <= CACHED_CHARACTERS_MAX else _Parser(text).query()


@lru_cache(maxsize=256)
def _parse_cached(text: str) -> Query:
    return _Parser(text).query()


def parse_condition(text: str) -> tuple[str, Expression | None]:
    """The alias and the predicate of a patch's condition, `from c where …`.

    Raises:
        CosmosError: 400 where it is malformed.
    """
    return _Parser(text).condition()
