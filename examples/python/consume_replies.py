"""Do something with every reply that is published to a topic, whoever sent the command: an audit, a notification, ...

A reply is completed after it was dealt with, so none is lost, and one may come twice: after a crash, and when a
command was sent twice. Here the command id tells. Replies that cannot be read are put aside as dead letters.

    python examples/python/consume_replies.py TOPIC SUBSCRIPTION [COUNT]

Needs BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, and a worker with `reply_topic`. Without a COUNT it goes on until it
is interrupted. For a subscription with sessions, see `get_subscription_receiver(…, session_id=NEXT_AVAILABLE_SESSION)`.
"""

import argparse
import asyncio
import json
import os
import signal
import sys

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import ServiceBusError

from brook_client.messages import ReceivedReply, UnreadableReplyError, received_reply
from schemas.replies import Appended, ConcurrencyConflict

TOGETHER_MAX = 50
WAIT_S = 1.0
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0


def setting(name: str, default: str | None = None) -> str:
    """A setting of the workers, by its variable; without a default it is needed."""
    value = os.environ.get(name, default)
    if value is None:
        raise SystemExit(f"error: set {name}, as README.md says under 'Programs in other languages'")
    return value


def deal_with(received: ReceivedReply) -> None:
    """Do what this consumer is there for: say what became of each command."""
    match received.reply:
        case Appended(first_position=first, last_position=last):
            outcome = f"appended {first} to {last}"
        case ConcurrencyConflict(actual=actual):
            outcome = f"conflict, the head is at {actual}"
        case rejected:
            outcome = f"rejected: {rejected.message}"
    sys.stdout.write(json.dumps({"commandId": received.command_id, "outcome": outcome}) + "\n")
    sys.stdout.flush()


class Consumer:
    """Takes replies from a subscription until it has dealt with `count_max` of them, or is told to stop."""

    def __init__(self, topic: str, subscription: str, count_max: int | None) -> None:
        self._topic = topic
        self._subscription = subscription
        self._left = count_max
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish what is in hand and end."""
        self._stopping.set()

    async def run(self, connection_string: str) -> None:
        """Receive, and open the receiver anew, after a pause, when its connection is lost."""
        pause_s = PAUSE_FIRST_S
        async with ServiceBusClient.from_connection_string(connection_string) as client:
            while not self._stopping.is_set():
                try:
                    async with client.get_subscription_receiver(self._topic, self._subscription) as receiver:
                        pause_s = PAUSE_FIRST_S
                        await self._receive(receiver)
                except ServiceBusError as error:
                    sys.stderr.write(f"trying again in {pause_s:g} s: {error}\n")
                    try:
                        await asyncio.wait_for(self._stopping.wait(), pause_s)
                    except TimeoutError:
                        pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _receive(self, receiver: ServiceBusReceiver) -> None:
        while not self._stopping.is_set():
            wanted = TOGETHER_MAX if self._left is None else min(self._left, TOGETHER_MAX)
            for message in await receiver.receive_messages(max_message_count=wanted, max_wait_time=WAIT_S):
                await self._take(receiver, message)

    async def _take(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        try:
            received = received_reply(message)
        except UnreadableReplyError as error:
            await receiver.dead_letter_message(message, reason="unreadable-reply", error_description=str(error))
            return
        deal_with(received)
        await receiver.complete_message(message)  # only now: a reply that was not dealt with comes again
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.stop()


async def main() -> None:
    """Run until the count is reached, or SIGINT or SIGTERM comes."""
    parser = argparse.ArgumentParser(description="Say what became of each command whose reply comes by a topic.")
    parser.add_argument("topic")
    parser.add_argument("subscription")
    parser.add_argument("count", type=int, nargs="?", help="end after so many; default: go on")
    options = parser.parse_args()
    consumer = Consumer(options.topic, options.subscription, options.count)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, consumer.stop)
    await consumer.run(setting("BROOK_WORKER_SERVICEBUS_CONNECTION_STRING"))


if __name__ == "__main__":
    asyncio.run(main())
