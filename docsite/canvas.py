"""Boxes, arrows and text as one SVG that brings its own background, so that it can be read on light and dark pages."""

import html
from collections.abc import Sequence
from typing import Final, Literal

Kind = Literal["ours", "azure", "outside", "note", "faint"]
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

_FONTS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_LINE_HEIGHT: Final = 17
_LIGHT: Final = {
    "page": "#ffffff",
    "ink": "#1f2733",
    "soft": "#5a6575",
    "line": "#6b7788",
    "ours": "#e3efff",
    "ours-line": "#2f6fd0",
    "azure": "#f2f4f7",
    "azure-line": "#8a96a8",
    "outside": "#fff6e0",
    "outside-line": "#c28a16",
}
_DARK: Final = {
    "page": "#171b24",
    "ink": "#e6eaf1",
    "soft": "#a3adbd",
    "line": "#93a0b4",
    "ours": "#1d3357",
    "ours-line": "#6ea8ff",
    "azure": "#252b37",
    "azure-line": "#76839a",
    "outside": "#3b3117",
    "outside-line": "#e0b04c",
}


def _colours(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_STYLE: Final = (
    f"svg{{{_colours(_LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{svg{{{_colours(_DARK)}}}}}"
    f"text{{font-family:{_FONTS};fill:var(--ink);font-size:13px}}"
    ".title{font-weight:600;font-size:14px}.soft{fill:var(--soft);font-size:12px}"
    ".label{paint-order:stroke;stroke:var(--page);stroke-width:5px;stroke-linejoin:round}"
    ".page{fill:var(--page)}"
    ".box{stroke-width:1.4}"
    ".ours{fill:var(--ours);stroke:var(--ours-line)}"
    ".azure{fill:var(--azure);stroke:var(--azure-line)}"
    ".outside{fill:var(--outside);stroke:var(--outside-line)}"
    ".note{fill:none;stroke:var(--line);stroke-dasharray:4 3}"
    ".faint{fill:none;stroke:var(--azure-line);stroke-dasharray:2 3;stroke-width:1}"
    ".arrow{fill:none;stroke:var(--line);stroke-width:1.5}.dashed{stroke-dasharray:5 4}"
    ".head{fill:var(--line)}"
)


class Canvas:
    """Collects what is drawn; `svg` gives the file. Lengths are pixels, from the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width = width
        self._height = height
        self._title = title
        self._below: list[str] = []
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, lines: Sequence[str], *, kind: Kind = "ours"
    ) -> None:
        """A rounded box. The first line is its title; all are centred."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * _LINE_HEIGHT / 2 + 5
        for index, line in enumerate(lines):
            self.text(x + width / 2, top + index * _LINE_HEIGHT, line, "title" if index == 0 else "soft")

    def frame(self, x: float, y: float, width: float, height: float, label: str) -> None:
        """A dashed frame around others, with its label at the top left inside."""
        self._below.append(f'<rect class="box note" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9"/>')
        self.text(x + 12, y + 20, label, "soft", anchor="start")

    def text(self, x: float, y: float, text: str, style: str = "", *, anchor: Anchor = "middle") -> None:
        """One line of text."""
        self._parts.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def labels(self, x: float, y: float, lines: Sequence[str], *, anchor: Anchor = "middle", halo: bool = True) -> None:
        """Lines of small text below each other; `y` is the first one's. With `halo` they stand out from lines."""
        for index, line in enumerate(lines):
            self.text(x, y + index * (_LINE_HEIGHT - 2), line, "soft label" if halo else "soft", anchor=anchor)

    def line(self, start: Point, end: Point) -> None:
        """A straight line without a head."""
        self._below.append(f'<path class="faint" d="M{start[0]:g},{start[1]:g} L{end[0]:g},{end[1]:g}"/>')

    def arrow(self, *points: Point, dashed: bool = False, curved: bool = False) -> None:
        """An arrow along the points. `curved`: the points between the ends bend it, and are not touched."""
        first, rest = points[0], points[1:]
        if curved:
            letter = {2: "L", 3: "Q", 4: "C"}[len(points)]
            path = f"M{first[0]:g},{first[1]:g} {letter}" + " ".join(f"{x:g},{y:g}" for x, y in rest)
        else:
            path = f"M{first[0]:g},{first[1]:g} " + " ".join(f"L{x:g},{y:g}" for x, y in rest)
        style = "arrow dashed" if dashed else "arrow"
        self._below.append(f'<path class="{style}" d="{path}" marker-end="url(#head)"/>')

    def svg(self) -> str:
        """The file."""
        title = html.escape(self._title)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}"',
                f' width="{self._width}" height="{self._height}" role="img" aria-label="{title}">',
                f"<title>{title}</title>",
                f"<style>{_STYLE}</style>",
                '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7.5" markerHeight="7.5"',
                ' orient="auto-start-reverse"><path class="head" d="M0,0.8 L10,5 L0,9.2 z"/></marker></defs>',
                f'<rect class="page" width="{self._width}" height="{self._height}" rx="10"/>',
                *self._below,
                *self._parts,
                "</svg>\n",
            ]
        )
