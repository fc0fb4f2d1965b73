"""The documentation as data: pages, their fenced blocks with markers, their headings and links.

A marker is an HTML comment right above a block, so it is not seen on the page:

- `<!-- not run: REASON -->`: a block that is only looked at, and why. Its commands must exist all the same.
- `<!-- run -->`: a Python block that is executed with the page's commands; `<!-- run: alone -->` where it needs neither
  the services nor a worker.
- `<!-- file: NAME -->`: the block is written to that file before the page goes on.
- `<!-- settings -->`, `<!-- command -->`, `<!-- reply -->`, `<!-- fault -->`: what a TOML or JSON block is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*)$")
_COMMENT: Final = re.compile(r"^ *<!-- *(?P<text>.*?) *-->$")
_HEADING: Final = re.compile(r"^(#{1,6}) +(?P<text>.+?) *#*$")
_ATTRIBUTES: Final = re.compile(r" *\{[^}]*#(?P<id>[\w.-]+)[^}]*\}$")
_LINK: Final = re.compile(r"\]\(<?(?P<target>[^)\s>]+)>?(?: +\"[^\"]*\")?\)")
_REFERENCE: Final = re.compile(r"^ *\[[^\]]+\]: +<?(?P<target>\S+?)>?$")
_SOURCE: Final = re.compile(r"<(?:img|source|a)\b[^>]*?\b(?:src|href|srcset)=\"(?P<target>[^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its first fence, counted from 1."""

    page: Path
    line: int
    language: str
    text: str
    markers: tuple[str, ...]

    @property
    def where(self) -> str:
        """Page and line, as an editor takes them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def marker(self, name: str) -> str | None:
        """What a marker says after its name, empty when it says nothing; None without it."""
        for marker in self.markers:
            found, _, value = marker.partition(":")
            if found.strip() == name:
                return value.strip()
        return None


@dataclass(frozen=True)
class Link:
    """A link or image of a page. `target` is as it is written."""

    page: Path
    line: int
    target: str

    @property
    def where(self) -> str:
        """Page, line and target."""
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.target}"


def pages() -> list[Path]:
    """README and every page below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order. Raises ValueError for one that does not end."""
    markers: list[str] = []
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if (opened := _FENCE.match(line)) is not None:
            text = _fenced(lines, opened["fence"], len(opened["indent"]))
            if text is None:
                raise ValueError(f"{page}:{number}: the block does not end")
            language = opened["info"].split(maxsplit=1)[0] if opened["info"].strip() else ""
            yield Block(page, number, language, text, tuple(markers))
            markers = []
        elif (comment := _COMMENT.match(line)) is not None:
            markers.append(comment["text"])
        elif line.strip():
            markers = []


def _fenced(lines: Iterator[tuple[int, str]], fence: str, indent: int) -> str | None:
    """The text up to the closing fence, without the indentation of the opening one."""
    taken: list[str] = []
    for _, line in lines:
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            return "\n".join(taken) + "\n"
        taken.append(line[indent:] if not line[:indent].strip() else line)
    return None


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page that stand in no block."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if (opened := _FENCE.match(line)) is not None:
            _fenced(lines, opened["fence"], 0)
        else:
            yield number, line


def links(page: Path) -> Iterator[Link]:
    """Every link and image of a page, but for those in code."""
    for number, line in prose(page):
        text = re.sub(r"`[^`]*`", "", line)
        for pattern in (_LINK, _REFERENCE, _SOURCE):
            for found in pattern.finditer(text):
                yield Link(page, number, found["target"])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for _, line in prose(page):
        if (heading := _HEADING.match(line)) is not None:
            text = heading["text"]
            if (given := _ATTRIBUTES.search(text)) is not None:
                found.add(given["id"])
                continue
            slug = base = slug_of(text)
            count = 0
            while slug in found:
                count += 1
                slug = f"{base}-{count}"
            found.add(slug)
        found.update(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return found


def slug_of(heading: str) -> str:
    """A heading's anchor: lower case, without punctuation, a hyphen for each space."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.replace("`", "").strip().lower()).replace(" ", "-")
