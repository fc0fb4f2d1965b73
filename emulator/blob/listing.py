"""Pages of ordered names, with prefix and delimiter. Pure."""

import bisect
from collections.abc import Sequence

import msgspec

RESULTS_MAX = 5000
_LAST_CHARACTER = 0x10FFFF


class Entry(msgspec.Struct, frozen=True):
    """A name, or what several names have in common up to and including the delimiter."""

    name: str
    is_prefix: bool = False


class Page(msgspec.Struct, frozen=True):
    """Entries in order; `next_name` is where the next page starts, empty at the end."""

    entries: list[Entry]
    next_name: str


def list_names(names: Sequence[str], *, prefix: str, delimiter: str, start: str, limit: int) -> Page:
    """At most `limit` entries of the sorted `names` that begin with `prefix`, from `start` on.

    Names that share a prefix up to the delimiter count as one entry and are skipped, not walked.
    """
    entries: list[Entry] = []
    at = bisect.bisect_left(names, max(prefix, start))
    while at < len(names) and names[at].startswith(prefix):
        name = names[at]
        if len(entries) == limit:
            return Page(entries, name)
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        if cut < 0:
            entries.append(Entry(name))
            at += 1
        else:
            common = name[: cut + len(delimiter)]
            entries.append(Entry(common, is_prefix=True))
            at = bisect.bisect_left(names, _after_all_with(common), at + 1)
    return Page(entries, "")


def _after_all_with(prefix: str) -> str:
    """The least string greater than everything that begins with `prefix`."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    return kept[:-1] + chr(ord(kept[-1]) + 1) if kept else chr(_LAST_CHARACTER) * 2048
