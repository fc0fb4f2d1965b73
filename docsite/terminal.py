"""What a terminal shows after each piece of a program's output; as much of a terminal as rich's progress bars use."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_PIECES: Final = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<letter>[A-Za-z])|(?P<text>[^\x1b\r\n]+|\r|\n)")


class Chunk(NamedTuple):
    """A piece of output and when it came, in seconds from the start."""

    at_s: float
    text: str


class Frame(NamedTuple):
    """What the terminal shows from a moment on: its lines, with their colours as escape sequences."""

    at_s: float
    lines: tuple[str, ...]


class Terminal:
    """Takes output and tells the lines. Knows colours, carriage return, newline, cursor up, erasing of a line.

    Every line is written from its beginning: a text that comes after a carriage return replaces the line. Raises
    ValueError for a sequence that it does not know, so that a picture is right or is not made.
    """

    def __init__(self) -> None:
        self._lines = [""]
        self._row = 0
        self._fresh = False

    @property
    def lines(self) -> tuple[str, ...]:
        """What is shown, without empty lines at the end."""
        shown = list(self._lines)
        while shown and not shown[-1]:
            shown.pop()
        return tuple(shown)

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        for piece in _PIECES.finditer(text):
            if piece["text"] is not None:
                self._write(piece["text"])
            else:
                self._control(piece["number"], piece["letter"], piece.group())

    def _write(self, text: str) -> None:
        if text == "\n":
            self._row += 1
            self._fresh = False
            if self._row == len(self._lines):
                self._lines.append("")
        elif text == "\r":
            self._fresh = True
        else:
            self._put(text)

    def _put(self, text: str) -> None:
        self._lines[self._row] = text if self._fresh else self._lines[self._row] + text
        self._fresh = False

    def _control(self, number: str, letter: str, sequence: str) -> None:
        match letter:
            case "m":
                self._put(sequence)
            case "A":
                self._row = max(0, self._row - int(number or 1))
                self._fresh = True
            case "K":
                self._lines[self._row] = ""
            case "h" | "l":  # showing and hiding the cursor
                pass
            case _:
                raise ValueError(f"the terminal knows no {sequence!r}")


def frames(chunks: Sequence[Chunk], *, every_s: float) -> list[Frame]:
    """What was shown over time, at most one frame in `every_s`, the first with output and the last one in any case."""
    terminal = Terminal()
    found: list[Frame] = []
    for index, chunk in enumerate(chunks):
        terminal.feed(chunk.text)
        is_last = index == len(chunks) - 1
        due = not found or chunk.at_s >= found[-1].at_s + every_s
        if terminal.lines and (due or is_last) and (not found or terminal.lines != found[-1].lines):
            found.append(Frame(chunk.at_s, terminal.lines))
    return found
