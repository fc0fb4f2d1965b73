"""The console that commands write to: ids, bodies and reasons that anybody may have sent do not steer the terminal."""

from collections.abc import Iterable

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from worker.terminal import visible


class SafeConsole(Console):
    """A console on which every text is `visible`.

    Rich itself lets escape sequences through: the body of a dead letter could clear the screen, or write elsewhere.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Console does, for every text at whatever depth: cells of tables come by here too."""
        if isinstance(renderable, str):
            renderable = visible(renderable)
        elif isinstance(renderable, Text) and (shown := visible(renderable.plain)) != renderable.plain:
            renderable = renderable.blank_copy(shown)  # without marks within it, whose places have moved
        return super().render(renderable, options)


def print_json(console: Console, value: msgspec.Struct) -> None:
    """One JSON object on one line, never wrapped."""
    console.out(msgspec.json.encode(value).decode(), highlight=False)
