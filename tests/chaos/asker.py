"""A client process that asks until it is answered: `python -m tests.chaos.asker FILE`, to be killed at any time.

For each brook it sends one command after the other, each again under its id until its reply is there, and writes the
reply into the journal before it goes on. Started anew, it goes on behind the journal. SIGTERM lets it finish what it
has begun. Whatever the client raises must be an error of its own that says what is known.
"""

import base64
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final

import anyio
import msgspec

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.errors import BrookClientError
from brook_client.messages import ReceivedReply
from schemas.codec import decode_reply
from schemas.types import CommandId
from tests.chaos.load import Json, as_command, make_commands

WAIT_S: Final = 4.0
SEND_TIME_MAX_S: Final = 6.0
_MARGIN_S: Final = 14.0
"""The last try of a send may take its whole time-out, and closing its link as well."""


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told."""

    connection_string: str
    command_queue: str
    reply_queue: str
    brooks: list[int]
    seed: int
    journal: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal."""

    brook: int
    number: int
    command_id: str
    body: str
    asked: int
    took_s: float


class Journal:
    """The answers so far, one JSON line each; a line that was cut off by a kill does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def answered(self) -> list[Answered]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return list(_readable(lines))

    def failures(self) -> Counter[str]:
        """How often each error was raised, by all processes so far."""
        found = self.path.with_suffix(".errors")
        return Counter(found.read_text().splitlines()) if found.exists() else Counter()


def _readable(lines: list[bytes]) -> Iterator[Answered]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Answered)
        except msgspec.DecodeError:
            continue


def commands_of(asking: Asking) -> Iterator[Json]:
    """Those that have an answer, in the order of their brook."""
    numbers = Counter(one.brook for one in Journal(Path(asking.journal)).answered())
    for brook, count in numbers.items():
        yield from islice(make_commands(asking.seed, brook), count)


def replies_in(asking: Asking) -> Iterator[ReceivedReply]:
    """The answers as they came."""
    for one in Journal(Path(asking.journal)).answered():
        body = base64.b64decode(one.body)
        yield ReceivedReply(command_id=CommandId(one.command_id), reply=decode_reply(body), body=body, facts={})


class Asker:
    """All brooks at once, one command of each at a time."""

    def __init__(self, asking: Asking, journal: IO[bytes], errors: IO[bytes]) -> None:
        self._asking = asking
        self._journal = journal
        self._errors = errors
        self._stopping = False

    async def run(self) -> None:
        done = Counter(one.brook for one in Journal(Path(self._asking.journal)).answered())
        connect = with_connection_string(self._asking.connection_string)
        async with (
            BrookClient(
                connect,
                command_queue=self._asking.command_queue,
                reply_queue=self._asking.reply_queue,
                send_time_max_s=SEND_TIME_MAX_S,
            ) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._watch, tasks.cancel_scope)
            async with anyio.create_task_group() as askers:
                for brook in self._asking.brooks:
                    askers.start_soon(self._ask_all, client, brook, done[brook])
            tasks.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self._stopping = True

    async def _ask_all(self, client: BrookClient, brook: int, done: int) -> None:
        for number, plain in enumerate(islice(make_commands(self._asking.seed, brook), done, None), done):
            if self._stopping:
                return
            began_s = time.monotonic()
            received, asked = await self._ask(client, plain)
            answered = Answered(
                brook=brook,
                number=number,
                command_id=received.command_id,
                body=base64.b64encode(received.body).decode(),
                asked=asked,
                took_s=round(time.monotonic() - began_s, 2),
            )
            self._journal.write(msgspec.json.encode(answered) + b"\n")
            self._journal.flush()

    async def _ask(self, client: BrookClient, plain: Json) -> tuple[ReceivedReply, int]:
        command, asked = as_command(plain), 0
        while True:
            asked += 1
            began_s = time.monotonic()
            try:
                return await client.request(command, timeout_s=WAIT_S), asked
            except BrookClientError as error:
                self._note(type(error).__name__)
                await anyio.sleep(0.1)
            except Exception as error:  # noqa: BLE001 - what must not be is told
                self._note(f"NOT ITS OWN: {type(error).__name__}: {str(error)[:200]!r}")
                await anyio.sleep(0.1)
            if (took_s := time.monotonic() - began_s) > WAIT_S + SEND_TIME_MAX_S + _MARGIN_S:
                self._note(f"LATE: an error after {took_s:.0f} s")

    def _note(self, what: str) -> None:
        self._errors.write(what.encode() + b"\n")
        self._errors.flush()


def main() -> None:
    asking = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Asking)
    path = Path(asking.journal)
    _end_cut_line(path)
    with path.open("ab") as journal, path.with_suffix(".errors").open("ab") as errors:
        anyio.run(Asker(asking, journal, errors).run)


def _end_cut_line(path: Path) -> None:
    """What a killed process wrote of a line must not swallow the next one."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as journal:
            journal.write(b"\n")


if __name__ == "__main__":
    main()
