"""What Service Bus takes as a message id, correlation id or session id."""

from typing import Final

from schemas.problems import has_control_characters, is_encodable
from schemas.types import MESSAGE_ID_LENGTH_MAX

_PRINTABLE: Final = "use printable characters"


def utf16_length(text: str) -> int:
    """Length in UTF-16 units, as .NET counts it: a character outside the basic plane is two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def fits(text: str) -> bool:
    """Tell whether `text` can travel as an id at all: short enough, and well-formed Unicode."""
    return is_encodable(text) and utf16_length(text) <= MESSAGE_ID_LENGTH_MAX


def problem_and_remedy(text: str) -> tuple[str, str] | None:
    """What keeps `text` from being an id, and what to change; None when nothing does. It may be empty."""
    if not is_encodable(text):
        return "contains a lone surrogate", _PRINTABLE
    if has_control_characters(text):
        return "contains a control character", _PRINTABLE
    if (length := utf16_length(text)) > MESSAGE_ID_LENGTH_MAX:
        return f"is {length:,} characters long (UTF-16)", f"use at most {MESSAGE_ID_LENGTH_MAX}"
    return None
