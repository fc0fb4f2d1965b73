"""A terminal recording as one SVG file: no script, no font and no other file is needed to see it."""

import html
import re
from collections.abc import Iterator, Sequence
from typing import Final

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from docsite.terminal import Frame

_CHARACTER_WIDTH: Final = 8.43
_LINE_HEIGHT: Final = 17
_FONT_SIZE: Final = 14
_PADDING: Final = 18
_BAR_HEIGHT: Final = 34
_HOLD_S: Final = 10.0
"""How long the last frame stays before it begins anew."""

_THEME: Final = TerminalTheme(
    (23, 27, 36),
    (212, 217, 226),
    [
        (70, 77, 92),
        (242, 106, 106),
        (131, 201, 120),
        (229, 192, 104),
        (104, 166, 239),
        (210, 131, 226),
        (94, 200, 204),
        (212, 217, 226),
    ],
)
_WORDS: Final = re.compile(r"\S+(?: \S+)*")
_CONSOLE: Final = Console(color_system="truecolor", force_terminal=True)
_FONTS: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def recording(frames: Sequence[Frame], *, title: str, columns: int) -> str:
    """The frames one after the other, each for as long as it was shown; then the last one for ten seconds, and again.

    Where nothing moves (no animation, or one who asked for less motion) the last frame is shown. A line that several
    frames share stands in the file once.
    """
    assert frames, "there is nothing to show"
    rows = max(len(frame.lines) for frame in frames)
    width = round(columns * _CHARACTER_WIDTH + 2 * _PADDING)
    height = _BAR_HEIGHT + rows * _LINE_HEIGHT + 2 * _PADDING
    start_s, end_s = frames[0].at_s, frames[-1].at_s
    total_s = end_s - start_s + _HOLD_S
    symbols: dict[str, str] = {}
    body = [_frame(index, frame, symbols, last=index == len(frames) - 1) for index, frame in enumerate(frames)]
    escaped = html.escape(title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        f' role="img" aria-label="{escaped}" fill="{_THEME.foreground_color.hex}">',
        f"<title>{escaped}</title>",
        f"<style>text{{font:{_FONT_SIZE}px {_FONTS};white-space:pre}}",
        ".b{font-weight:bold}.d{opacity:.65}.i{font-style:italic}",
        *_timing(frames, total_s),
        "@media (prefers-reduced-motion:reduce){g.f{animation:none}}</style>",
        "<defs>",
        *(f'<g id="{name}">{line}</g>' for line, name in symbols.items()),
        "</defs>",
        f'<rect width="{width}" height="{height}" rx="9" fill="{_THEME.background_color.hex}"/>',
        *_window_buttons(),
        f'<text x="{width / 2:g}" y="{_BAR_HEIGHT / 2 + 7:g}" text-anchor="middle" class="d">{escaped}</text>',
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _window_buttons() -> Iterator[str]:
    for index, colour in enumerate(("#ee6a5f", "#f5bd4f", "#61c454")):
        yield f'<circle cx="{_PADDING + 6 + 20 * index}" cy="{_BAR_HEIGHT / 2 + 2:g}" r="6" fill="{colour}"/>'


def _timing(frames: Sequence[Frame], total_s: float) -> Iterator[str]:
    """Each frame but the last is seen in its own part of the time; the last one is seen unless another is."""
    start_s = frames[0].at_s
    for index, frame in enumerate(frames):
        begin = 100 * (frame.at_s - start_s) / total_s
        end = 100 * (frames[index + 1].at_s - start_s) / total_s if index + 1 < len(frames) else 100.0
        seen = f"{begin:.3f}%{{visibility:visible}}"
        before = "0%{visibility:hidden}" if begin else ""
        after = "" if end == 100.0 else f"{end:.3f}%{{visibility:hidden}}"  # noqa: PLR2004 - per cent
        yield f"@keyframes k{index}{{{before}{seen}{after}}}"
        yield f"#f{index}{{animation:k{index} {total_s:.2f}s step-end infinite}}"


def _frame(index: int, frame: Frame, symbols: dict[str, str], *, last: bool) -> str:
    uses = []
    for row, line in enumerate(frame.lines):
        drawn = _line(line)
        if drawn:
            name = symbols.setdefault(drawn, f"l{len(symbols)}")
            y = _BAR_HEIGHT + _PADDING + row * _LINE_HEIGHT
            uses.append(f'<use href="#{name}" y="{y}"/>')
    hidden = "" if last else ' visibility="hidden"'
    return f'<g class="f" id="f{index}"{hidden}>{"".join(uses)}</g>'


def _line(line: str) -> str:
    """One line's spans, each at its own column and as wide as its characters, whatever the font's width."""
    drawn, column = [], 0
    for text in AnsiDecoder().decode(line):
        for segment in text.render(_CONSOLE):
            for words in _WORDS.finditer(segment.text):
                at = column + cell_len(segment.text[: words.start()])
                drawn.append(_span(words.group(), at, segment.style or Style.null()))
            column += segment.cell_length
    return "".join(drawn)


def _span(text: str, column: int, style: Style) -> str:
    x = _PADDING + column * _CHARACTER_WIDTH
    classes = " ".join(name for name, given in (("b", style.bold), ("d", style.dim), ("i", style.italic)) if given)
    colour: ColorTriplet | None = style.color.get_truecolor(_THEME) if style.color is not None else None
    attributes = f' class="{classes}"' if classes else ""
    attributes += f' fill="{colour.hex}"' if colour is not None else ""
    length = cell_len(text) * _CHARACTER_WIDTH
    return (
        f'<text x="{x:.1f}" y="{_FONT_SIZE}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs"{attributes}>'
        f"{html.escape(text)}</text>"
    )
