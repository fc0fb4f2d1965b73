"""Query text to tokens."""

import re
from typing import Final, NamedTuple

from emulator.cosmos.errors import bad_request

QUERY_CHARACTERS_MAX: Final = 512 * 1024
"""https://learn.microsoft.com/azure/cosmos-db/concepts-limits: 512 KB of SQL text."""

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?\*/)
  | (?P<number>(?:0[xX][0-9a-fA-F]+)|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<parameter>@[A-Za-z_0-9]+)
  | (?P<word>[A-Za-z_][A-Za-z_0-9]*)
  | (?P<symbol><=|>=|!=|<>|\?\?|\|\||<<|>>>|>>|[-+*/%=<>().,\[\]{}:?&|^~])
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


class Token(NamedTuple):
    """`kind` is number, string, parameter, word, symbol or end."""

    kind: str
    text: str
    at: int


def syntax_error(text: str, at: int) -> Exception:
    """400 as the service words it."""
    near = text[at : at + 20]
    return bad_request(
        f'Message: {{"errors":[{{"severity":"Error","location":{{"start":{at},"end":{at + len(near)}}},'
        f'"code":"SC1001","message":"Syntax error, incorrect syntax near \'{near}\'."}}]}}'
    )


def tokens(text: str) -> list[Token]:
    """All tokens of a query, an `end` at their end.

    Raises:
        CosmosError: 400 for a character that begins no token, and for text that is too long.
    """
    if len(text) > QUERY_CHARACTERS_MAX:
        raise bad_request(f"The query text is longer than {QUERY_CHARACTERS_MAX} characters.")
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise syntax_error(text, at)
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(Token(kind, match.group(), at))
        at = match.end()
    found.append(Token("end", "", at))
    return found


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)


def string_value(token: Token) -> str:
    """What a string token stands for."""
    return _ESCAPE.sub(_unescape, token.text[1:-1])


def number_value(token: Token) -> int | float:
    """What a number token stands for."""
    if token.text[:2] in ("0x", "0X"):
        return int(token.text, 16)
    value = float(token.text)
    return int(value) if value.is_integer() and abs(value) < 10**21 else value
