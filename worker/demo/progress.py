"""The demo's progress bars."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """One bar for each stage, and one for each outcome of the replies."""

    def __init__(self, progress: Progress, outcomes: tuple[str, ...]) -> None:
        self._progress = progress
        self._sent = progress.add_task("sent", total=None)
        self._replies = progress.add_task("replies", total=None)
        self._outcomes: dict[str, TaskID] = {name: progress.add_task(f"  {name}", total=None) for name in outcomes}
        self._read = progress.add_task("brooks read back", total=None)

    def begin(self, commands: int, brooks: int) -> None:
        """Set how much is to be done."""
        for task in (self._sent, self._replies, *self._outcomes.values()):
            self._progress.update(task, total=commands)
        self._progress.update(self._read, total=brooks)

    def sent(self, count: int) -> None:
        """So many more commands are in the queue."""
        self._progress.advance(self._sent, count)

    def replied(self, outcomes: Counter[str]) -> None:
        """These are all replies until now."""
        self._progress.update(self._replies, completed=outcomes.total())
        for name, task in self._outcomes.items():
            self._progress.update(task, completed=outcomes[name])

    def read(self) -> None:
        """One more brook was read."""
        self._progress.advance(self._read)


@contextmanager
def bars(console: Console, outcomes: tuple[str, ...]) -> Iterator[Bars]:
    """Show the bars while the context lasts; without a terminal, only how they stood at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, outcomes)
