"""The ceiling: receive, reply, complete. No store, no lease, nothing decided. Run with a worker's settings.

python -m bench.null_worker

As fast as the SDK allows: while the replies of one group go out and it is completed, the next is received.
"""

from typing import Final

import anyio
from azure.servicebus import ServiceBusReceivedMessage

from bench.broker import Replied, ReplySenders, Session, serve_sessions
from bench.stopping import Stopping, end_at_once
from schemas.codec import decode_command
from schemas.replies import Appended
from schemas.types import START
from worker.clients import servicebus_client
from worker.commands.shared import run_async
from worker.configuration import load_settings
from worker.garbage import collect_seldom
from worker.settings import Settings

_GROUPS_MAX: Final = 3
"""Groups of one session that are in hand at once."""


class NullWork:
    """Answers every command of a session as if it had been appended."""

    def __init__(self, replies: ReplySenders, stopping: Stopping) -> None:
        self._replies = replies
        self._stopping = stopping

    async def __call__(self, session: Session) -> None:
        """Group after group, until none comes."""
        in_hand = anyio.CapacityLimiter(_GROUPS_MAX)
        replied = anyio.Event()
        replied.set()
        async with anyio.create_task_group() as groups:
            while not self._stopping.is_set and (messages := await session.receive()):
                turn, replied = replied, anyio.Event()
                await in_hand.acquire_on_behalf_of(replied)
                groups.start_soon(self._finish, session, messages, turn, replied, in_hand)

    async def _finish(
        self,
        session: Session,
        messages: list[ServiceBusReceivedMessage],
        turn: anyio.Event,
        replied: anyio.Event,
        in_hand: anyio.CapacityLimiter,
    ) -> None:
        """Reply when the group before has replied, then complete."""
        replies: list[Replied] = [(message, _appended(message), {}) for message in messages]
        await turn.wait()
        await self._replies.send(replies)
        replied.set()
        await session.complete(messages)
        in_hand.release_on_behalf_of(replied)


def _appended(message: ServiceBusReceivedMessage) -> Appended:
    command = decode_command(b"".join(message.body), message.content_type)
    return Appended(command_id=command.command_id, first_position=START, last_position=START)


async def run(settings: Settings) -> None:
    """Work until a signal."""
    stopping = Stopping()
    async with (
        anyio.create_task_group() as tasks,
        servicebus_client(settings) as reply_client,
        servicebus_client(settings) as client,
    ):
        await tasks.start(stopping.watch)
        replies = ReplySenders(reply_client, settings)
        collect_seldom()
        await serve_sessions(client, settings, NullWork(replies, stopping), stopping)
        end_at_once()


def main() -> None:
    """Run on the event loop that the worker runs on."""
    run_async(run, load_settings())


if __name__ == "__main__":
    main()
