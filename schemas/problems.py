"""One way to say what is wrong with an input: the field, the problem and what to change."""

from typing import Final

import msgspec

TEXT_LENGTH_MAX: Final = 100
"""How much of what a sender wrote is quoted back."""


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that is wrong. `field` is a path such as `events[3].eventId`; `remedy` tells what to change."""

    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Render as one sentence."""
        return f"{self.field}: {self.problem}; {self.remedy}"


def shortened(text: str) -> str:
    """`text` as it may stand in a problem: a reply must stay small whatever was sent."""
    return text if len(text) <= TEXT_LENGTH_MAX else f"{text[:TEXT_LENGTH_MAX]}…"


def has_control_characters(text: str) -> bool:
    """Tell whether `text` holds a C0 or C1 control character or a DEL."""
    return any(character < " " or "\x7f" <= character <= "\x9f" for character in text)


def is_encodable(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
