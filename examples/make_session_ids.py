"""Writes `session-ids.json` beside itself: brook keys and the session ids that every producer must make of them."""

import json
from pathlib import Path
from typing import Any, Final

from schemas.keys import BrookKey, session_id_for

KEYS: Final = (
    ("order", "42"),
    ("Bestellung", "Größe 7"),
    ("заказ", "倉庫-7"),
    ("order", "a b/c?d#e%20"),
    ("order", "x" * 122),  # 128 characters in all: the longest that stays as it is
    ("order", "x" * 123),
    ("order", "é" * 122),  # 128 characters, though more bytes
    ("order", "😀" * 61),  # 67 characters, but 128 UTF-16 units
    ("order", "😀" * 61 + "x"),
    ("n" * 500, "e" * 524),  # 1,024 bytes: the longest key there is
)
BUCKETS: Final = (None, 1, 16, 1_000, 100_000)


def make() -> list[dict[str, Any]]:
    """Every key, with and without buckets. `buckets` is left out where there are none."""
    return [
        {
            "brook": {"name": name, "entityId": entity_id},
            **({"buckets": buckets} if buckets is not None else {}),
            "sessionId": session_id_for(BrookKey.checked(name, entity_id), buckets),
        }
        for name, entity_id in KEYS
        for buckets in BUCKETS
    ]


def render() -> str:
    """The file's content."""
    lines = ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in make())
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    (Path(__file__).parent / "session-ids.json").write_text(render(), encoding="utf-8")
