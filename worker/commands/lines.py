"""Reads commands, one a line, from a file or a pipe, as they come."""

import os
import select
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio.to_thread

from brook_client.messages import command_message
from schemas.codec import CommandDecodeError, decode_command
from schemas.commands import AppendCommand
from worker.commands.failures import CommandError

_READ_BYTES: Final = 1 << 16
_POLL_S: Final = 0.2
_LINE_BYTES_MAX: Final = 100_000_000

OnBadLine = Callable[[int, str], None]
"""Called with the number of a line, from 1, and what is wrong with it."""


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What a file or pipe holds, as soon as it is there, without blocking the event loop.

    The thread that waits looks up now and then, so that a program that is interrupted can end.
    """
    abandoned = threading.Event()

    def read() -> bytes:
        while not abandoned.is_set():
            if select.select([descriptor], [], [], _POLL_S)[0]:
                return os.read(descriptor, _READ_BYTES)
        return b""

    try:
        while chunk := await anyio.to_thread.run_sync(read, abandon_on_cancel=True):
            yield chunk
    finally:
        abandoned.set()


async def commands(source: AsyncIterator[bytes], on_bad_line: OnBadLine) -> AsyncIterator[list[AppendCommand]]:
    """The commands of `source` in order, as many at a time as came together.

    A line that is no sendable command is told to `on_bad_line` and left out; empty lines are passed over. Raises
    CommandError for a line that never ends.
    """
    number = 0
    rest = b""
    async for chunk in source:
        *lines, rest = (rest + chunk).split(b"\n")
        yield list(_decoded(lines, number, on_bad_line))
        number += len(lines)
        if len(rest) > _LINE_BYTES_MAX:
            raise CommandError(f"line {number + 1}: is longer than any message may be; end each command with a newline")
    yield list(_decoded([rest], number, on_bad_line))


def _decoded(lines: list[bytes], before: int, on_bad_line: OnBadLine) -> list[AppendCommand]:
    found = []
    for number, line in enumerate(lines, before + 1):
        if not line.strip():
            continue
        try:
            command = decode_command(line)
            command_message(command)
        except (CommandDecodeError, ValueError) as error:
            on_bad_line(number, str(error))
        else:
            found.append(command)
    return found
