"""Query plans: what a client needs to run a query over several physical partitions and to merge the answers.

The shapes are those that the service's gateway answers to `x-ms-cosmos-is-query-plan-request` and that
`azure.cosmos._execution_context` reads.
"""

from typing import Any

from emulator.cosmos.errors import bad_request, not_covered
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.tree import Expression, Query, has_aggregate, selected
from emulator.cosmos.values import UNDEFINED, encode

FILTER_MARK = "{documentdb-formattableorderbyquery-filter}"
"""Clients put their resume condition here; the Python client always puts `true`."""

_AGGREGATE_NAMES = {"COUNT": "Count", "MIN": "Min", "MAX": "Max", "SUM": "Sum", "AVG": "Average"}

_ORDER_ITEM = "item"


def to_sql(expression: Expression) -> str:  # noqa: C901, PLR0912 - one case for each node
    """The text of an expression, every operator in brackets."""
    match expression:
        case tree.Literal(value):
            return "undefined" if value is UNDEFINED else encode(value).decode()
        case tree.Parameter(name):
            return name
        case tree.Name(text):
            return text
        case tree.Member(base, key):
            return f"{to_sql(base)}[{to_sql(key)}]"
        case tree.Unary(sign, operand):
            return f"({sign} {to_sql(operand)})"
        case tree.Logical(word, operands):
            return "(" + f" {word} ".join(to_sql(operand) for operand in operands) + ")"
        case tree.Binary(sign, left, right):
            return f"({to_sql(left)} {sign} {to_sql(right)})"
        case tree.In(needle, options):
            return f"({to_sql(needle)} IN ({_list(options)}))"
        case tree.Between(value, low, high):
            return f"({to_sql(value)} BETWEEN {to_sql(low)} AND {to_sql(high)})"
        case tree.Like(value, pattern):
            return f"({to_sql(value)} LIKE {to_sql(pattern)})"
        case tree.Call(name, arguments):
            return f"{name}({_list(arguments)})"
        case tree.Conditional(condition, then, otherwise):
            return f"({to_sql(condition)} ? {to_sql(then)} : {to_sql(otherwise)})"
        case tree.ArrayOf(members):
            return f"[{_list(members)}]"
        case tree.ObjectOf(members):
            return "{" + ", ".join(f"{encode(name).decode()}: {to_sql(value)}" for name, value in members) + "}"


def _list(members: tuple[Expression, ...]) -> str:
    return ", ".join(to_sql(member) for member in members)


def needs_plan(query: Query) -> bool:
    """Whether the gateway refuses to run the query over several partitions itself (400/1004)."""
    return bool(
        query.order_by
        or query.top is not None
        or query.limit is not None
        or query.distinct
        or any(has_aggregate(expression) for expression in selected(query))
    )


def plan(query: Query, parameters: dict[str, Any]) -> dict[str, Any]:
    """The answer to a query plan request.

    Raises:
        CosmosError: 400 for a combination that clients cannot merge.
    """
    aggregates = _aggregates(query)
    if aggregates and not isinstance(query.select, Expression):
        raise bad_request("Cross partition query only supports 'VALUE <AggregateFunc>' for aggregates.")
    if aggregates and query.distinct:
        raise not_covered("An aggregate together with DISTINCT over several partitions")
    order_by = () if aggregates else query.order_by  # the order of what is aggregated has no effect
    distinct = "None"
    if query.distinct:
        distinct = "Ordered" if order_by else "Unordered"
    info: dict[str, Any] = {
        "distinctType": distinct,
        "top": bound(query.top, parameters, "TOP"),
        "offset": bound(query.offset, parameters, "OFFSET"),
        "limit": bound(query.limit, parameters, "LIMIT"),
        "orderBy": ["Descending" if descending else "Ascending" for _, descending in order_by],
        "orderByExpressions": [to_sql(expression) for expression, _ in order_by],
        "groupByExpressions": [],
        "groupByAliases": [],
        "aggregates": aggregates,
        "groupByAliasToAggregateType": {},
        "rewrittenQuery": _rewritten(query, parameters, aggregates),
        "hasSelectValue": isinstance(query.select, Expression),
        "hasNonStreamingOrderBy": False,
    }
    whole = {"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}
    return {"partitionedQueryExecutionInfoVersion": 2, "queryInfo": info, "queryRanges": [whole]}


def bound(expression: Expression | None, parameters: dict[str, Any], clause: str) -> int | None:
    """The number of TOP, OFFSET or LIMIT.

    Raises:
        CosmosError: 400 where a parameter is missing or no whole number from 0 on.
    """
    if expression is None:
        return None
    if isinstance(expression, tree.Literal):
        return int(expression.value)
    assert isinstance(expression, tree.Parameter)
    value = parameters.get(expression.name)
    if type(value) is not int or value < 0:
        raise bad_request(f"The value of {clause} must be a whole number that is not negative.")
    return int(value)


def _aggregates(query: Query) -> list[str]:
    """The names of the aggregates, in the order of the SELECT clause."""
    names = []
    for expression in selected(query):
        if isinstance(expression, tree.Call) and expression.function in tree.AGGREGATES:
            names.append(_AGGREGATE_NAMES[expression.function])
        elif has_aggregate(expression):
            raise not_covered("An aggregate inside of an expression over several partitions")
    return names


def _partial(expression: Expression) -> str:
    """An aggregate as each partition computes it for the client to merge."""
    assert isinstance(expression, tree.Call)
    argument = _list(expression.arguments)
    if expression.function == "AVG":
        return f'{{"item": {{"sum": SUM({argument}), "count": COUNT({argument})}}}}'
    if expression.function in ("MIN", "MAX"):
        # `item2` tells a partition without values from one whose extreme is undefined: JavaScript clients read it.
        member = expression.function.lower()
        extreme = to_sql(expression)
        return f'{{"item": {extreme}, "item2": {{"{member}": {extreme}, "count": COUNT({argument})}}}}'
    return f'{{"item": {to_sql(expression)}}}'


def _payload(query: Query) -> str:
    """The SELECT clause as one expression."""
    if query.select is None:
        return query.alias
    if isinstance(query.select, tuple):
        return to_sql(tree.ObjectOf(tuple((name, expression) for expression, name in query.select)))
    return to_sql(query.select)


def _rewritten(query: Query, parameters: dict[str, Any], aggregates: list[str]) -> str:
    """The query that each partition gets; empty where the original will do."""
    where = f" WHERE {to_sql(query.where)}" if query.where is not None else ""
    if aggregates:
        partials = ", ".join(_partial(expression) for expression in selected(query))
        return f"SELECT VALUE [{partials}] FROM {query.alias}{where}"  # noqa: S608 - text for our own parser
    offset, limit = bound(query.offset, parameters, "OFFSET"), bound(query.limit, parameters, "LIMIT")
    tail = f" OFFSET 0 LIMIT {(offset or 0) + limit}" if limit is not None else ""
    top = f"TOP {bound(query.top, parameters, 'TOP')} " if query.top is not None else ""
    distinct = "DISTINCT " if query.distinct else ""
    if not query.order_by:
        if not tail:
            return ""
        select = "*" if query.select is None else f"VALUE {_payload(query)}"
        return f"SELECT {distinct}{select} FROM {query.alias}{where}{tail}"  # noqa: S608 - as above
    if query.distinct:
        # Only the client can tell which rows are distinct, so no partition may stop before it has: see the test of
        # the Python client, test_query.py, "SELECT DISTINCT … ORDER BY … OFFSET … LIMIT …".
        distinct = top = tail = ""
    keys = ", ".join(f'{{"{_ORDER_ITEM}": {to_sql(expression)}}}' for expression, _ in query.order_by)
    order = ", ".join(
        f"{to_sql(expression)} {'DESC' if descending else 'ASC'}" for expression, descending in query.order_by
    )
    condition = f"({to_sql(query.where)}) AND ({FILTER_MARK})" if query.where is not None else FILTER_MARK
    return (
        f"SELECT {distinct}{top}{query.alias}._rid, [{keys}] AS orderByItems, {_payload(query)} AS payload"  # noqa: S608 - as above
        f" FROM {query.alias} WHERE {condition} ORDER BY {order}{tail}"
    )
