"""Answers commands in the place of a worker, so that a client can be tested without one."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from schemas.codec import decode_command, encode_reply
from schemas.commands import AppendCommand
from schemas.keys import session_id_for
from schemas.replies import Appended
from schemas.types import Position


class Responder:
    """Answers each command with its place in its brook, as a worker would that never fails.

    To the queue or topic that the message names. A command that comes again gets the same reply.
    """

    def __init__(self, connection_string: str) -> None:
        self._connection_string = connection_string
        self.reply_counts: Counter[str] = Counter()
        self.seen: dict[str, list[AppendCommand]] = defaultdict(list)
        self.properties: list[dict[Any, Any]] = []
        self.content_types: set[str | None] = set()

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Responder"]:
        self._stopping = False
        async with (
            ServiceBusClient.from_connection_string(self._connection_string, retry_total=0) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._serve, client)
            yield self
            self._stopping = True

    async def _serve(self, client: ServiceBusClient) -> None:
        async with AsyncExitStack() as senders, client.get_queue_receiver("brook-commands", socket_timeout=0.02) as it:
            opened: dict[str, ServiceBusSender] = {}
            while not self._stopping:
                messages = await it.receive_messages(max_message_count=100, max_wait_time=0.05)
                for address in {message.reply_to or "brook-replies" for message in messages} - opened.keys():
                    opened[address] = await senders.enter_async_context(client.get_queue_sender(address))
                if messages:
                    await self._answer(it, opened, messages)

    async def _answer(
        self,
        receiver: ServiceBusReceiver,
        senders: dict[str, ServiceBusSender],
        messages: list[ServiceBusReceivedMessage],
    ) -> None:
        for address, sender in senders.items():
            here = [message for message in messages if (message.reply_to or "brook-replies") == address]
            if here:
                await sender.send_messages([self._reply(message) for message in here])
                self.reply_counts[address] += len(here)
        for message in messages:
            await receiver.complete_message(message)

    def _reply(self, message: ServiceBusReceivedMessage) -> ServiceBusMessage:
        command = decode_command(b"".join(message.body), message.content_type)
        assert message.message_id == command.command_id
        assert message.session_id == session_id_for(command.brook)
        self.content_types.add(message.content_type)
        self.properties.append(dict(message.application_properties or {}))
        seen = self.seen[str(command.brook)]
        if command not in seen:
            seen.append(command)
        position = Position(seen.index(command))
        reply = Appended(command_id=command.command_id, first_position=position, last_position=position)
        return ServiceBusMessage(
            encode_reply(reply, message.content_type or ""),
            content_type=message.content_type,
            message_id=f"r:{command.command_id}",
            correlation_id=message.message_id,
            session_id=message.reply_to_session_id,
            application_properties={"requestCharge": 5.5, "batchCommands": len(seen), "note": "größe"},
        )
