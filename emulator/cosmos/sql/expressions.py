"""Expressions of a query: precedence climbing over operators."""

from typing import Final

from emulator.cosmos.errors import bad_request, not_covered
from emulator.cosmos.sql import tree
from emulator.cosmos.sql.lexer import Token, number_value, string_value, syntax_error, tokens
from emulator.cosmos.sql.tree import Expression
from emulator.cosmos.values import UNDEFINED

DEPTH_MAX: Final = 100
"""Levels of nested expressions."""

_PRECEDENCE: Final = {
    "??": 1,
    "OR": 2,
    "AND": 3,
    "=": 5, "!=": 5, "<>": 5, "<": 5, "<=": 5, ">": 5, ">=": 5, "IN": 5, "BETWEEN": 5, "LIKE": 5, "NOT": 5,
    "|": 6, "^": 7, "&": 8,
    "<<": 9, ">>": 9, ">>>": 9,
    "||": 10,
    "+": 11, "-": 11,
    "*": 12, "/": 12, "%": 12,
}  # fmt: skip
_NOT_OPERAND: Final = 4
_BETWEEN_OPERAND: Final = 6

RESERVED: Final = frozenset(
    {
        "SELECT", "FROM", "WHERE", "ORDER", "BY", "GROUP", "AS", "JOIN", "IN", "AND", "OR", "NOT", "BETWEEN", "LIKE",
        "TOP", "VALUE", "DISTINCT", "ASC", "DESC", "OFFSET", "LIMIT", "EXISTS", "ARRAY", "UDF", "ESCAPE",
    }
)  # fmt: skip
_CONSTANTS: Final = {"TRUE": True, "FALSE": False, "NULL": None, "UNDEFINED": UNDEFINED}


class ExpressionParser:
    """The tokens of one query, and the expressions in them. `alias` is the only name that they may use."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0
        self.alias = ""

    # --- tokens ---

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _word(self) -> str:
        """The word that comes next, in capitals; empty where something else comes."""
        token = self._peek()
        return token.text.upper() if token.kind == "word" else ""

    def _takes(self, *words: str) -> bool:
        """Whether these words come next; if so they are consumed."""
        for offset, word in enumerate(words):
            place = self._at + offset
            if place >= len(self._tokens):
                return False
            token = self._tokens[place]
            if token.kind not in ("word", "symbol") or token.text.upper() != word:
                return False
        self._at += len(words)
        return True

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            raise self._error()

    def _error(self) -> Exception:
        return syntax_error(self._text, self._peek().at)

    def _identifier(self) -> str:
        token = self._peek()
        if token.kind != "word" or token.text.upper() in RESERVED:
            raise self._error()
        return self._next().text

    # --- expressions ---

    def expression(self, least: int = 0) -> Expression:
        """An expression whose operators bind at least as tightly as `least`."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise bad_request(f"The query nests expressions deeper than {DEPTH_MAX} levels.")
        left = self._unary()
        chained = 0
        while (operator := self._operator()) and _PRECEDENCE[operator] >= max(least, 1):
            self._at += 1
            left = self._after_operator(left, operator)
            chained += not isinstance(left, tree.Logical)
            if chained > DEPTH_MAX:
                raise bad_request(f"The query chains more than {DEPTH_MAX} operators.")
        if least == 0 and self._takes("?"):
            then = self.expression()
            self._expect(":")
            left = tree.Conditional(left, then, self.expression())
        self._depth -= 1
        return left

    def _operator(self) -> str:
        token = self._peek()
        if token.kind not in ("word", "symbol"):
            return ""
        text = token.text.upper()
        return text if text in _PRECEDENCE else ""

    def _after_operator(self, left: Expression, operator: str) -> Expression:
        if operator == "NOT":
            operator = self._word()
            if operator not in ("IN", "BETWEEN", "LIKE"):
                raise self._error()
            self._at += 1
            return tree.Unary("NOT", self._after_operator(left, operator))
        if operator == "IN":
            self._expect("(")
            return tree.In(left, self._until(")"))
        if operator == "BETWEEN":
            low = self.expression(_BETWEEN_OPERAND)
            self._expect("AND")
            return tree.Between(left, low, self.expression(_BETWEEN_OPERAND))
        if operator == "LIKE":
            return tree.Like(left, self.expression(_BETWEEN_OPERAND))
        right = self.expression(_PRECEDENCE[operator] + 1)
        if operator in ("AND", "OR"):
            if isinstance(left, tree.Logical) and left.operator == operator:
                return tree.Logical(operator, (*left.operands, right))
            return tree.Logical(operator, (left, right))
        return tree.Binary("!=" if operator == "<>" else operator, left, right)

    def _unary(self) -> Expression:
        if self._takes("NOT"):
            return tree.Unary("NOT", self.expression(_NOT_OPERAND))
        for sign in ("-", "+", "~"):
            if self._takes(sign):
                self._depth += 1
                if self._depth > DEPTH_MAX:
                    raise self._error()
                operand = self._unary()
                self._depth -= 1
                return tree.Unary(sign, operand)
        return self._postfix(self._primary())

    def _postfix(self, base: Expression) -> Expression:
        for _ in range(DEPTH_MAX):
            if self._takes("."):
                token = self._next()
                if token.kind != "word":
                    self._at -= 1
                    raise self._error()
                base = tree.Member(base, tree.Literal(token.text))
            elif self._takes("["):
                key = self.expression()
                self._expect("]")
                base = tree.Member(base, key)
            else:
                return base
        raise bad_request(f"The query names a property more than {DEPTH_MAX} levels deep.")

    def _primary(self) -> Expression:
        token = self._next()
        if token.kind == "number":
            return tree.Literal(number_value(token))
        if token.kind == "string":
            return tree.Literal(string_value(token))
        if token.kind == "parameter":
            return tree.Parameter(token.text)
        if token.kind == "word":
            return self._from_word(token)
        if token.text == "(":
            if self._word() == "SELECT":
                raise not_covered("A subquery")
            inner = self.expression()
            self._expect(")")
            return inner
        if token.text == "[":
            return tree.ArrayOf(self._until("]"))
        if token.text == "{":
            return self._object()
        self._at -= 1
        raise self._error()

    def _from_word(self, token: Token) -> Expression:
        name = token.text.upper()
        if name in ("EXISTS", "ARRAY", "UDF"):
            raise not_covered(f"'{name}' in a query")
        if self._peek().text == "(" and name not in RESERVED:
            self._at += 1
            return tree.Call(name, self._until(")"))
        if name in _CONSTANTS:
            return tree.Literal(_CONSTANTS[name])
        if name in RESERVED:
            self._at -= 1
            raise self._error()
        if token.text != self.alias:
            raise bad_request(f"Identifier '{token.text}' could not be resolved.")
        return tree.Name(token.text)

    def _until(self, end: str) -> tuple[Expression, ...]:
        """Expressions with commas between them, up to a closing bracket."""
        members: list[Expression] = []
        if self._takes(end):
            return ()
        while True:
            members.append(self.expression())
            if self._takes(end):
                return tuple(members)
            self._expect(",")

    def _object(self) -> Expression:
        members: list[tuple[str, Expression]] = []
        if self._takes("}"):
            return tree.ObjectOf(())
        while True:
            token = self._next()
            if token.kind not in ("string", "word"):
                self._at -= 1
                raise self._error()
            name = string_value(token) if token.kind == "string" else token.text
            self._expect(":")
            members.append((name, self.expression()))
            if self._takes("}"):
                return tree.ObjectOf(tuple(members))
            self._expect(",")
