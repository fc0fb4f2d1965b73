"""Keeping keys out of everything that people read: logs, errors, reprs."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

HIDDEN: Final = "***"

_NAMED_KEYS: Final = re.compile(
    r"(?P<name>AccountKey|SharedAccessKey|SharedAccessSignature|password|client_secret|sig)"
    r"(?P<equals>\s*=\s*[\"']?|[\"']?\s*:\s*[\"']|%3d)(?P<value>[^;&\s\"',]+)",
    re.IGNORECASE,
)
_SCHEMES: Final = re.compile(
    r"\b(?P<scheme>SharedKey(?:Lite)?|SharedAccessSignature|Bearer)\s+[^\s\"',;]+", re.IGNORECASE
)

_TOKENS: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
"""JSON web tokens, as identities have them: base64url of `{"`."""

_USER_INFO: Final = re.compile(r"(?<=://)[^\s/?#@\"']+@")
"""What stands before the host of a URL: a name and a password."""

_SECRET_LENGTH_MIN: Final = 6
"""A shorter secret is not searched for in text: it would blank ordinary words and tell what it is by doing so."""


class Secret:
    """Text that shows itself only where it is asked to: `repr`, `str`, formats and logs give `***`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the client that needs it and nobody else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def redact(text: str) -> str:
    """Replace what looks like a key: values of key names in connection strings and signatures, credentials, users."""
    text = _NAMED_KEYS.sub(rf"\g<name>\g<equals>{HIDDEN}", _TOKENS.sub(HIDDEN, _USER_INFO.sub(f"{HIDDEN}@", text)))
    return _SCHEMES.sub(rf"\g<scheme> {HIDDEN}", text)


class Redactor:
    """Replaces the given secrets, each key inside them, and whatever `redact` finds."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        found = {part for secret in secrets for part in _parts(secret.reveal())}
        known = sorted((part for part in found if len(part) >= _SECRET_LENGTH_MIN), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        return redact(self._known.sub(HIDDEN, text) if self._known else text)


def _parts(secret: str) -> Iterator[str]:
    """The secret and, of a connection string, the values that are keys."""
    yield secret
    for match in _NAMED_KEYS.finditer(secret):
        yield match["value"]
