"""What others wrote, as it may be shown on a terminal: it does not steer it."""

import re
from typing import Final

_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and new line, what changes the direction of text, and what is no character."""


def visible(text: str) -> str:
    """`text` with what would steer a terminal written as JSON writes it: so JSON stays the same JSON."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
