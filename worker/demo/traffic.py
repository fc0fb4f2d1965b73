"""Sends the demo's commands and keeps what came back, with the times of both."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

import anyio

from brook_client.messages import Fact, ReceivedReply
from schemas.commands import AppendCommand
from schemas.replies import Reply
from schemas.types import CommandId

OUTCOMES: Final = tuple(kind.__name__ for kind in get_args(Reply))
_POLL_S: Final = 0.05


@dataclass
class Traffic:
    """What was sent and what came back. `latencies_s` has one entry for each reply to a command that was sent."""

    replies: dict[CommandId, list[ReceivedReply]] = field(default_factory=lambda: defaultdict(list))
    outcomes: Counter[str] = field(default_factory=Counter)
    batches: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Commands by the (commands, events) of the batch that carried them out."""
    latencies_s: list[float] = field(default_factory=list)
    reply_count: int = 0
    first_sent_s: float | None = None
    last_reply_s: float = 0.0
    _sent_s: dict[CommandId, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    @property
    def duration_s(self) -> float:
        """From the first command to the last reply."""
        return 0.0 if self.first_sent_s is None else self.last_reply_s - self.first_sent_s

    def stamped(self, commands: Sequence[AppendCommand]) -> Iterator[AppendCommand]:
        """Yield the commands and note when each goes out."""
        for command in commands:
            now_s = time.perf_counter()
            self.first_sent_s = now_s if self.first_sent_s is None else self.first_sent_s
            self._sent_s[command.command_id].append(now_s)
            yield command

    def take(self, reply: ReceivedReply) -> None:
        """Note a reply. Replies to a command sent again come in the order in which it was sent."""
        self.last_reply_s = time.perf_counter()
        self.reply_count += 1
        self.replies[reply.command_id].append(reply)
        self.outcomes[type(reply.reply).__name__] += 1
        if waiting := self._sent_s[reply.command_id]:
            self.latencies_s.append(self.last_reply_s - waiting.popleft())
        commands, events = _number(reply.facts.get("batchCommands")), _number(reply.facts.get("batchEvents"))
        if commands and len(self.replies[reply.command_id]) == 1:  # a repetition may tell of the same batch again
            self.batches[commands, events] += 1


async def wait_for_replies(
    traffic: Traffic, count: int, *, quiet_s: float, check: Callable[[], None], on_change: Callable[[], None]
) -> None:
    """Return once `count` replies are there, or none came for `quiet_s`: what is missing, the checks tell.

    `check` is called all the while, to raise when going on is in vain.
    """
    seen, changed_s = -1, time.perf_counter()
    while traffic.reply_count < count and time.perf_counter() - changed_s < quiet_s:
        check()
        if traffic.reply_count != seen:
            seen, changed_s = traffic.reply_count, time.perf_counter()
            on_change()
        await anyio.sleep(_POLL_S)
    on_change()


def _number(fact: Fact | None) -> int:
    return fact if isinstance(fact, int) else 0
