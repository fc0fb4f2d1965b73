"""`brook-worker send`: newline-delimited commands into the queue and, if wanted, their replies out again."""

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Final

import msgspec

from brook_client.client import BrookClient
from brook_client.errors import CommandTooLargeError
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand
from worker.commands.failures import CommandError
from worker.commands.lines import commands
from worker.commands.outstanding import Outstanding

_OUTSTANDING_MAX: Final = 10_000
_NAMED_MAX: Final = 10


class SendSummary(msgspec.Struct):
    """What became of the input."""

    sent: int = 0
    bad_lines: int = 0


async def send_lines(
    client: BrookClient,
    source: AsyncIterator[bytes],
    *,
    await_replies: bool,
    quiet_s: float,
    on_reply: Callable[[ReceivedReply], None],
    on_problem: Callable[[str], None],
) -> SendSummary:
    """Send every good line of `source` in order; tell every bad one and go on.

    With `await_replies`, return when each command has its reply. Raises CommandError when none came for `quiet_s`
    although some are missing, and what the client raises when the queue does not take a command.
    """
    summary = SendSummary()
    outstanding = Outstanding()

    def bad_line(number: int, problem: str) -> None:
        summary.bad_lines += 1
        on_problem(f"line {number}: {problem}")

    def replied(reply: ReceivedReply) -> None:
        outstanding.settle(reply.command_id)
        on_reply(reply)

    def too_large(error: CommandTooLargeError) -> None:
        summary.bad_lines += 1
        outstanding.settle(error.command_id)
        on_problem(str(error))

    with client.listen(replied) if await_replies else nullcontext():
        async for group in commands(source, bad_line):
            if await_replies:
                for command in group:
                    outstanding.add(command.command_id)
            summary.sent += await _send_all(client, group, too_large)
            if not await outstanding.at_most(_OUTSTANDING_MAX, quiet_s=quiet_s):
                break
        if not await outstanding.at_most(0, quiet_s=quiet_s):
            raise CommandError(_missing(outstanding, quiet_s))
    return summary


async def _send_all(
    client: BrookClient, group: list[AppendCommand], on_too_large: Callable[[CommandTooLargeError], None]
) -> int:
    """Send a group; a command that is too large is told and the rest goes on behind it."""
    sent = 0

    def count(confirmed: int) -> None:
        nonlocal sent
        sent += confirmed

    remaining = iter(group)
    while True:
        try:
            await client.send_many(remaining, on_sent=count)
        except CommandTooLargeError as error:
            on_too_large(error)
        else:
            return sent


def _missing(outstanding: Outstanding, quiet_s: float) -> str:
    named = ", ".join(outstanding.ids()[:_NAMED_MAX])
    more = f" and {len(outstanding) - _NAMED_MAX:,} more" if len(outstanding) > _NAMED_MAX else ""
    return (
        f"no reply for {quiet_s:g} s, {len(outstanding):,} missing: {named}{more}; they may still take effect, and"
        " sending them again under the same command ids is safe"
    )
