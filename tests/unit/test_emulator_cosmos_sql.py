"""The query language: three-valued logic, functions, syntax, and query plans."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cosmos.errors import CosmosError
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.evaluate import compile_expression
from emulator.cosmos.sql.parser import parse
from emulator.cosmos.sql.plan import FILTER_MARK, needs_plan, plan, to_sql
from emulator.cosmos.values import UNDEFINED

DOCUMENT: dict[str, Any] = {
    "id": "a",
    "n": 5,
    "half": 2.5,
    "s": "Hello",
    "t": True,
    "f": False,
    "z": None,
    "list": [1, "two", {"x": 3, "y": 4}],
    "o": {"inner": {"deep": 7}, "b c": 8},
}


def evaluate(expression: str, **parameters: Any) -> Any:
    query = parse(f"SELECT VALUE {expression} FROM c")
    assert isinstance(query.select, tree.Expression)
    return compile_expression(query.select)(DOCUMENT, {f"@{name}": value for name, value in parameters.items()})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("c.n + 2 * 3", 11),
        ("(c.n + 2) * 3", 21),
        ("c.n / 2", 2.5),
        ("c.n / 5", 1),
        ("c.n / 0", UNDEFINED),
        ("c.n % 3", 2),
        ("-c.n", -5),
        ("c.n + c.s", UNDEFINED),
        ("c.s || '!'", "Hello!"),
        ("c.n & 4", 4),
        ("c.n | 2", 7),
        ("~c.n", -6),
        ("1 << 3", 8),
        ("c.o.inner.deep", 7),
        ('c["o"]["b c"]', 8),
        ("c.list[2].x", 3),
        ("c.list[9]", UNDEFINED),
        ("c.missing", UNDEFINED),
        ("c.missing.deeper", UNDEFINED),
        ("c.missing ?? 'default'", "default"),
        ("c.z ?? 'default'", None),
        ("c.t ? 'yes' : 'no'", "yes"),
        ("c.missing ? 'yes' : 'no'", "no"),
        ("[c.n, c.missing, 1]", [5, 1]),
        ('{"a": c.n, "b": c.missing}', {"a": 5}),
        ("'it\\'s \\u00e9'", "it's é"),
        ('"say \\"hi\\""', 'say "hi"'),
        ("0x1F", 31),
        ("1.5e2", 150),
        ("undefined", UNDEFINED),
        ("@p", 3),
    ],
)
def test_values(expression: str, value: Any) -> None:
    assert evaluate(expression, p=3) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # equality and order hold within a type only
        ("c.n = 5", True),
        ("c.n = '5'", UNDEFINED),
        ("c.n != '5'", UNDEFINED),
        ("c.t = 1", UNDEFINED),
        ("c.z = null", True),
        ("c.z != null", False),
        ("c.missing = null", UNDEFINED),
        ("c.missing = undefined", UNDEFINED),
        ("c.list = [1, 'two', {'y': 4, 'x': 3}]", True),
        ("c.list = [true, 'two', {'y': 4, 'x': 3}]", False),
        ("c.o > {}", UNDEFINED),
        ("c.s > 'Goodbye'", True),
        ("c.s < 5", UNDEFINED),
        ("c.f < c.t", True),
        # three-valued logic
        ("c.t AND c.missing", UNDEFINED),
        ("c.missing AND c.f", False),
        ("c.missing OR c.t", True),
        ("c.f OR c.missing", UNDEFINED),
        ("NOT c.missing", UNDEFINED),
        ("NOT c.t", False),
        ("NOT c.n", UNDEFINED),
        ("c.n AND c.t", UNDEFINED),
        # NOT binds looser than a comparison, AND tighter than OR
        ("NOT c.n = 4", True),
        ("true OR false AND false", True),
        ("(true OR false) AND false", False),
        ("c.n IN (1, 5)", True),
        ("c.n NOT IN (1, 5)", False),
        ("c.missing IN (1)", UNDEFINED),
        ("c.n IN ('5')", False),
        ("c.n BETWEEN 5 AND 6", True),
        ("c.n NOT BETWEEN 5 AND 6", False),
        ("c.n BETWEEN 'a' AND 6", UNDEFINED),
        ("c.n BETWEEN 1 AND 4 OR c.t", True),
        ("c.s LIKE 'H_ll%'", True),
        ("c.s LIKE '[F-I]ello'", True),
        ("c.s LIKE 'hello'", False),
        ("c.s NOT LIKE 'x%'", True),
        ("c.n LIKE '5'", UNDEFINED),
    ],
)
def test_comparisons_and_logic(expression: str, value: Any) -> None:
    assert evaluate(expression) is value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("IS_DEFINED(c.z)", True),
        ("IS_DEFINED(c.missing)", False),
        ("IS_NULL(c.z)", True),
        ("IS_NULL(c.missing)", False),
        ("IS_NUMBER(c.n) AND IS_STRING(c.s) AND IS_BOOL(c.t) AND IS_ARRAY(c.list) AND IS_OBJECT(c.o)", True),
        ("IS_NUMBER(c.t)", False),
        ("IS_PRIMITIVE(c.o)", False),
        ("startswith(c.s, 'He')", True),
        ("STARTSWITH(c.s, 'he')", False),
        ("STARTSWITH(c.s, 'he', true)", True),
        ("STARTSWITH(c.n, 'he')", UNDEFINED),
        ("ENDSWITH(c.s, 'lo')", True),
        ("CONTAINS(c.s, 'ell')", True),
        ("STRINGEQUALS(c.s, 'hello', true)", True),
        ("ARRAY_CONTAINS(c.list, 'two')", True),
        ("ARRAY_CONTAINS(c.list, {'x': 3})", False),
        ("ARRAY_CONTAINS(c.list, {'x': 3}, true)", True),
        ("ARRAY_CONTAINS(c.s, 'two')", UNDEFINED),
        ("ARRAY_LENGTH(c.list)", 3),
        ("ARRAY_SLICE(c.list, 0, 2)", [1, "two"]),
        ("LENGTH(c.s)", 5),
        ("LOWER(c.s)", "hello"),
        ("UPPER(c.s)", "HELLO"),
        ("SUBSTRING(c.s, 1, 3)", "ell"),
        ("LEFT(c.s, 2) || RIGHT(c.s, 2)", "Helo"),
        ("REPLACE(c.s, 'l', 'L')", "HeLLo"),
        ("INDEX_OF(c.s, 'l')", 2),
        ("CONCAT(c.s, ' ', 'you')", "Hello you"),
        ("TOSTRING(c.n)", "5"),
        ("STRINGTONUMBER('2.0')", 2),
        ("ABS(-3)", 3),
        ("FLOOR(c.half)", 2),
        ("CEILING(c.half)", 3),
        ("ROUND(c.half)", 3),
        ("ROUND(-2.5)", -3),
        ("POWER(2, 10)", 1024),
        ("POWER(10, 400)", UNDEFINED),
        ("SQRT(-1)", UNDEFINED),
    ],
)
def test_functions(expression: str, value: Any) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT",
        "SELECT * FROM",
        "SELECT * FROM c WHERE",
        "SELECT * FROM c WHERE c.a =",
        "SELECT * FROM c WHERE c.a = 1 c.b = 2",
        "SELECT * FROM c WHERE c.a = 'open",
        "SELECT * FROM c ORDER BY",
        "SELECT * FROM c OFFSET 1",
        "SELECT * FROM c OFFSET -1 LIMIT 2",
        "SELECT * FROM c LIMIT 2",
        "SELECT TOP x * FROM c",
        "SELECT TOP 1 * FROM c OFFSET 1 LIMIT 1",
        "SELECT c.a, d.a FROM c",
        "SELECT c.a AS x, c.b AS x FROM c",
        "SELECT * FROM c; DROP TABLE c",
        "SELECT * FROM c WHERE c.a = 1 AND",
        "SELECT * FROM c WHERE (c.a = 1",
        "SELECT * FROM c WHERE c.a NOT 5",
        "SELECT * FROM c WHERE 'a' # 'b'",
        "UPDATE c SET c.a = 1",
        "SELECT * FROM select",
    ],
)
def test_malformed_text_is_400(text: str) -> None:
    with pytest.raises(CosmosError) as refused:
        parse(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        "SELECT COUNT(1) FROM c GROUP BY c.a",
        "SELECT t FROM c JOIN t IN c.list",
        "SELECT * FROM c.list",
        "SELECT * FROM t IN c.list",
        "SELECT * FROM c WHERE EXISTS (SELECT 1 FROM c)",
        "SELECT ARRAY(SELECT 1 FROM c) FROM c",
        "SELECT 1",
        "SELECT udf.f(c) FROM c",
    ],
)
def test_what_is_not_covered_says_so(text: str) -> None:
    with pytest.raises(CosmosError, match="not covered") as refused:
        parse(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM c WHERE " + "(" * 500 + "1=1" + ")" * 500,
        "SELECT * FROM c WHERE " + "NOT " * 500 + "true",
        "SELECT * FROM c WHERE " + "-" * 500 + "1 = 1",
        "SELECT * FROM c WHERE c" + ".a" * 500 + " = 1",
        "SELECT * FROM c WHERE 1" + "+1" * 500 + " = 1",
        "SELECT * FROM c WHERE c.a = '" + "x" * 600_000 + "'",
    ],
)
def test_a_query_that_is_too_deep_or_too_long_is_400(text: str) -> None:
    with pytest.raises(CosmosError) as refused:
        parse(text)
    assert refused.value.status == 400


def test_a_thousand_alternatives_are_no_problem() -> None:
    query = parse("SELECT * FROM c WHERE " + " OR ".join(f"c.id = '{number}'" for number in range(1000)))
    assert query.where is not None
    assert compile_expression(query.where)({"id": "999"}, {}) is True


@pytest.mark.parametrize("expression", ["NOPE(c.a)", "ABS()", "ABS(1, 2)", "COUNT(1)"])
def test_unknown_functions_wrong_arguments_and_misplaced_aggregates_are_400(expression: str) -> None:
    query = parse(f"SELECT * FROM c WHERE {expression}")
    assert query.where is not None
    with pytest.raises(CosmosError) as refused:
        compile_expression(query.where)
    assert refused.value.status == 400


def test_a_parameter_that_was_not_supplied_is_400() -> None:
    with pytest.raises(CosmosError, match="@gone"):
        evaluate("@gone")


def test_clauses_are_read() -> None:
    query = parse(
        'select distinct top 5 r.id as name, r["a b"] from root r where r.a > 1 order by r.a desc, r.b -- comment'
    )
    assert query.alias == "r"
    assert query.distinct
    assert query.top == tree.Literal(5)
    assert isinstance(query.select, tuple)
    assert [name for _, name in query.select] == ["name", "a b"]
    assert [descending for _, descending in query.order_by] == [True, False]


LEAVES = st.one_of(
    st.sampled_from(["c.n", "c.s", "c.t", "c.missing", "c.z", "c.list[0]", "c.o.inner.deep", "@p", "null", "true"]),
    st.integers(-100, 100).map(str),
    st.text("abé'\"\\\n", max_size=4).map(lambda text: to_sql(tree.Literal(text))),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(
            inner, st.sampled_from(["+", "-", "*", "/", "=", "!=", "<", ">=", "AND", "OR", "||", "??"]), inner
        ).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda part: f"(NOT {part})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} BETWEEN {parts[1]} AND {parts[2]})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]} IN ({parts[1]}, 5))"),
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        inner.map(lambda part: f'{{"k": {part}}}'),
        inner.map(lambda part: f"IS_DEFINED({part})"),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(EXPRESSIONS)
def test_an_expression_written_back_means_the_same(expression: str) -> None:
    query = parse(f"SELECT VALUE {expression} FROM c")
    assert isinstance(query.select, tree.Expression)
    assert evaluate(to_sql(query.select), p=3) == evaluate(expression, p=3)


@settings(deadline=None)
@given(st.text("SELECTFROMWHERE c.*@p'\"()[]{}=<>,1 \n", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, f"SELECT * FROM c WHERE {text}"):
        try:
            parse(candidate)
        except CosmosError as error:
            assert error.status == 400  # noqa: PT017 - not raising is fine as well


# --- query plans ---


def test_only_what_a_client_must_merge_needs_a_plan() -> None:
    assert not needs_plan(parse("SELECT * FROM c WHERE c.n > 1"))
    for tail in ("ORDER BY c.n", "OFFSET 1 LIMIT 2"):
        assert needs_plan(parse(f"SELECT * FROM c {tail}"))
    for head in ("TOP 3 *", "DISTINCT c.n", "VALUE COUNT(1)"):
        assert needs_plan(parse(f"SELECT {head} FROM c"))


def test_the_plan_of_an_ordered_query_asks_each_partition_for_keys_and_payload() -> None:
    info = plan(parse("SELECT c.id FROM c WHERE c.n > @p ORDER BY c.n DESC OFFSET 2 LIMIT @q"), {"@q": 5})["queryInfo"]
    assert info["orderBy"] == ["Descending"]
    assert (info["offset"], info["limit"], info["top"]) == (2, 5, None)
    rewritten = parse(info["rewrittenQuery"].replace(FILTER_MARK, "true"))
    assert isinstance(rewritten.select, tuple)
    assert [name for _, name in rewritten.select] == ["_rid", "orderByItems", "payload"]
    assert rewritten.limit == tree.Literal(7)


def test_the_plan_of_an_average_asks_for_sum_and_count() -> None:
    info = plan(parse("SELECT VALUE AVG(c.n) FROM c"), {})["queryInfo"]
    assert info["aggregates"] == ["Average"]
    assert info["hasSelectValue"] is True
    assert '"sum": SUM' in info["rewrittenQuery"]
    parse(info["rewrittenQuery"])


@pytest.mark.parametrize("value", [None, -1, 1.5, "3", True])
def test_a_limit_that_is_no_whole_number_is_400(value: Any) -> None:
    with pytest.raises(CosmosError):
        plan(parse("SELECT * FROM c OFFSET 0 LIMIT @n"), {"@n": value})
