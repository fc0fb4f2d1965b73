"""`brook-worker send`: newline-delimited commands into the queue and, if wanted, their replies out again."""

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Final

import anyio
import msgspec
import typer

from brook_client.client import BrookClient
from brook_client.errors import CommandTooLargeError
from brook_client.messages import ReceivedReply
from schemas import codec
from schemas.commands import AppendCommand
from worker.clients import servicebus_connector
from worker.commands.claims import claim_uploads
from worker.commands.failures import CommandError, drop_stdout
from worker.commands.lines import chunks, commands
from worker.commands.outstanding import Outstanding
from worker.settings import Settings
from worker.terminal import visible

_OUTSTANDING_MAX: Final = 10_000
_NAMED_MAX: Final = 10
_UNREAD: Final = (
    "nobody reads the replies any more, so no more was sent; what was sent may still take effect, and sending it again"
    " under the same command ids is safe"
)


def print_reply(reply: ReceivedReply) -> None:
    """Print a reply as a line of JSON. Raises BrokenPipeError when nobody reads stdout any more."""
    try:
        typer.echo(visible(codec.encode_reply(reply.reply).decode()))
    except BrokenPipeError:
        drop_stdout()
        raise


class SendSummary(msgspec.Struct):
    """What became of the input."""

    sent: int = 0
    bad_lines: int = 0


async def send_all(
    settings: Settings,
    descriptor: int,
    *,
    content_type: str,
    await_replies: bool,
    quiet_s: float,
    on_problem: Callable[[str], None],
) -> SendSummary:
    """Send what the file or pipe `descriptor` holds, and print the replies; otherwise as `send_lines` does."""
    async with (
        servicebus_connector(settings) as connect,
        claim_uploads(settings) as claims,
        BrookClient(
            connect,
            command_queue=settings.command_queue,
            reply_queue=settings.reply_queue,
            content_type=content_type,
            session_buckets=settings.session_buckets,
            claims=claims,
        ) as client,
    ):
        return await send_lines(
            client,
            chunks(descriptor),
            await_replies=await_replies,
            quiet_s=quiet_s,
            on_reply=print_reply,
            on_problem=on_problem,
        )


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
    although some are missing, or `on_reply` raised BrokenPipeError, and what the client raises when the queue does not
    take a command.
    """
    summary = SendSummary()
    outstanding = Outstanding()
    wanted = anyio.CancelScope()
    tell_reply = _until_unread(on_reply, wanted)

    def bad_line(number: int, problem: str) -> None:
        summary.bad_lines += 1
        on_problem(f"line {number}: {problem}")

    def replied(reply: ReceivedReply) -> None:
        outstanding.settle(reply.command_id)
        tell_reply(reply)

    def too_large(error: CommandTooLargeError) -> None:
        summary.bad_lines += 1
        outstanding.settle(error.command_id)
        on_problem(str(error))

    with wanted, client.listen(replied) if await_replies else nullcontext():
        async for group in commands(source, bad_line):
            if await_replies:
                for command in group:
                    outstanding.add(command.command_id)
            summary.sent += await _send_all(client, group, too_large)
            if not await outstanding.at_most(_OUTSTANDING_MAX, quiet_s=quiet_s):
                break
        if not await outstanding.at_most(0, quiet_s=quiet_s):
            raise CommandError(_missing(outstanding, quiet_s))
    if wanted.cancelled_caught:
        raise CommandError(_UNREAD)
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


def _until_unread(on_reply: Callable[[ReceivedReply], None], wanted: anyio.CancelScope) -> Callable[..., None]:
    """`on_reply`, but for the broken pipe that it raises once nobody reads what it prints: that cancels `wanted`.

    A client's listener cannot raise to whom it belongs.
    """

    def tell(reply: ReceivedReply) -> None:
        try:
            on_reply(reply)
        except BrokenPipeError:
            wanted.cancel()

    return tell


def _missing(outstanding: Outstanding, quiet_s: float) -> str:
    named = ", ".join(outstanding.ids()[:_NAMED_MAX])
    more = f" and {len(outstanding) - _NAMED_MAX:,} more" if len(outstanding) > _NAMED_MAX else ""
    return (
        f"no reply for {quiet_s:g} s, {len(outstanding):,} missing: {named}{more}; they may still take effect, and"
        " sending them again under the same command ids is safe"
    )
