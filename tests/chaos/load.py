"""What is sent: small and large commands to many brooks, from a seed, with conflicts and repetitions among them."""

import asyncio
import base64
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Final

import anyio

from brook_client.client import BrookClient
from brook_client.errors import ClaimUploadError, SendError
from schemas.codec import decode_command
from schemas.commands import AppendCommand
from schemas.types import CommandId
from tests.support.site import Replies
from tests.support.waiting import POLL_S

Json = dict[str, Any]

NAME: Final = "chaos"
UNDER_WAY_MAX: Final = 6
"""Commands of one brook that wait for a reply: enough for a group."""

SMALL_EVENTS_MAX: Final = 5
LARGE_EVENTS: Final = (150, 650)
"""Two to seven batches; below the 256 KB that a message holds."""
LARGE_SHARE: Final = 0.06
REPEATED_SHARE: Final = 0.05
_REPEATED_AGE_MAX: Final = 30
_WRONG: Final = 1_000_000
_AGAIN_S: Final = 0.2


def make_commands(seed: int, brook: int) -> Iterator[Json]:
    """One brook's commands, without end, the same for the same seed. As plain JSON: the expectation works on that."""
    chance = random.Random(f"{seed}/{brook}")
    head = -1
    earlier: deque[Json] = deque(maxlen=_REPEATED_AGE_MAX)
    for number in itertools.count():
        if earlier and chance.random() < REPEATED_SHARE:
            yield chance.choice(earlier)
        large = chance.random() < LARGE_SHARE
        count = chance.randint(*LARGE_EVENTS) if large else chance.randint(1, SMALL_EVENTS_MAX)
        expected, fits = _expected(chance, head)
        head += count if fits else 0
        made = _command(chance, f"{brook}-{number}", brook, expected, count)
        earlier.append(made)
        yield made


def _expected(chance: random.Random, head: int) -> tuple[str | int, bool]:
    """An expectation, and whether the head will be as expected."""
    kind = chance.choices(("any", "right", "wrong", "empty", "exists"), (60, 15, 10, 5, 10))[0]
    match kind:
        case "right":
            return head, True
        case "wrong":
            return _WRONG, False
        case "empty":
            return "empty", head == -1
        case "exists":
            return "exists", head >= 0
        case _:
            return "any", True


def _command(chance: random.Random, number: str, brook: int, expected: str | int, events: int) -> Json:
    made = [
        {
            "eventId": f"e{number}-{index}",
            "eventType": "happened",
            "data": base64.b64encode(chance.randbytes(24)).decode(),
            "time": "2026-01-31T12:00:00Z",
        }
        for index in range(events)
    ]
    return {
        "commandId": f"c{number}",
        "brook": {"name": NAME, "entityId": str(brook)},
        "expected": expected,
        "events": made,
    }


class Producer:
    """Keeps so many commands of each brook on their way until it is told to stop."""

    def __init__(self, client: BrookClient, replies: Replies, *, seed: int, brooks: int) -> None:
        self._client = client
        self._replies = replies
        self._streams = {f"{NAME}|{brook}": make_commands(seed, brook) for brook in range(brooks)}
        self._unanswered: dict[str, set[CommandId]] = {brook: set() for brook in self._streams}
        self._stop = asyncio.Event()
        self.failures: Counter[str] = Counter()
        """How often the client told that it does not know whether commands were sent."""
        self.sent: list[Json] = []
        """In the order in which they were sent: within a brook that is the order in which they are decided."""

    def stop(self) -> None:
        self._stop.set()

    def unanswered(self, brook: str) -> set[CommandId]:
        """The commands of a brook that have no reply yet."""
        waiting = self._unanswered[brook]
        waiting.difference_update([one for one in waiting if self._replies.by_command.get(one)])
        return set(waiting)

    async def run(self) -> None:
        while not self._stop.is_set():
            plain = list(self._next())
            if not plain:
                await anyio.sleep(POLL_S)
                continue
            await self._send(list(map(as_command, plain)))
            self.sent += plain

    async def _send(self, commands: list[AppendCommand]) -> None:
        """Until the queue has them: what is not confirmed is sent again under the same ids, in the same order."""
        while True:
            try:
                await self._client.send_many(commands)
            except (SendError, ClaimUploadError) as error:
                self.failures[type(error).__name__] += 1
                await anyio.sleep(_AGAIN_S)
            else:
                return

    def _next(self) -> Iterator[Json]:
        """What there is room for. An answer to a command sent again may be there already: the first one counts."""
        for brook, stream in self._streams.items():
            for _ in range(UNDER_WAY_MAX - len(self.unanswered(brook))):
                plain = next(stream)
                self._unanswered[brook].add(plain["commandId"])
                yield plain


def as_command(plain: Json) -> AppendCommand:
    return decode_command(json.dumps(plain).encode())
