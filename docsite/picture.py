"""`make picture`: runs the demo and makes docs/pictures/demo.svg of what it shows, as it showed it."""

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
from rich.console import Console

from docsite.recording import recording
from docsite.terminal import Chunk, frames
from worker.commands.failures import CommandError
from worker.demo.run import EXAMPLES, run_demo

PICTURE: Final = Path(__file__).parents[1] / "docs" / "pictures" / "demo.svg"

_COLUMNS: Final = 90
_FRAME_EVERY_S: Final = 0.5


class _Recorder(io.StringIO):
    """A file that keeps what is written with the time at which it was."""

    def __init__(self) -> None:
        super().__init__()
        self._started_s = time.perf_counter()
        self.chunks: list[Chunk] = []

    def write(self, text: str) -> int:
        self.chunks.append(Chunk(time.perf_counter() - self._started_s, text))
        return len(text)


async def record_demo() -> str | None:
    """Run the demo and give its recording, or None when it did not end as it should."""
    recorder = _Recorder()
    recorder.write("\x1b[1;32m$\x1b[0m make demo\n")
    console = Console(
        file=recorder, force_terminal=True, color_system="truecolor", width=_COLUMNS, legacy_windows=False, _environ={}
    )
    with tempfile.TemporaryDirectory() as folder:
        passed = await run_demo(EXAMPLES, Path(folder), console)
    shown = frames(recorder.chunks, every_s=_FRAME_EVERY_S)
    return recording(shown, title="make demo", columns=_COLUMNS) if passed else None


def main() -> int:
    """Make the picture; the exit code."""
    made = None
    try:
        made = anyio.run(record_demo)
    except* CommandError as group:
        sys.stderr.writelines(f"error: {error}\n" for error in group.exceptions)
    if made is None:
        sys.stderr.write("error: the demo did not end as it should; no picture was made\n")
        return 1
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(made, encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(Path.cwd())}: {len(made.encode()):,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
