"""Append events to brooks and do with each outcome what it calls for.

Every producer has the same three cases: the events were appended; somebody else was quicker, so look again and decide
anew; or the command was wrong, so mend the program. And one more: no reply in time, so ask again under the same id.

    python examples/python/produce_and_await.py [ACCOUNT]

Needs BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, and a worker that runs.
"""

import asyncio
import json
import os
import sys
import uuid
from typing import assert_never

from brook_client import BrookClient, BrookClientError, ReplyTimeoutError, SendError, with_connection_string
from schemas.commands import Expected, NewEvent
from schemas.replies import Appended, ConcurrencyConflict, Rejected, Reply

ATTEMPTS_MAX = 5


def setting(name: str, default: str | None = None) -> str:
    """A setting of the workers, by its variable; without a default it is needed."""
    value = os.environ.get(name, default)
    if value is None:
        raise SystemExit(f"error: set {name}, as README.md says under 'Programs in other languages'")
    return value


def event(event_type: str, **data: object) -> NewEvent:
    """Make an event of our own kind, with JSON as its data."""
    return NewEvent(
        event_id=str(uuid.uuid4()),
        event_type=event_type,
        data=json.dumps(data).encode(),
        data_content_type="application/json",
    )


async def append_for_certain(
    client: BrookClient, brook: str, events: list[NewEvent], *, expected: Expected, command_id: str
) -> Reply:
    """Ask until there is a reply. The command id makes it one command, however often it is sent."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await client.append(brook, events, expected=expected, command_id=command_id)
        except (ReplyTimeoutError, SendError) as error:
            if attempt == ATTEMPTS_MAX:
                raise
            sys.stderr.write(f"asking again: {error}\n")
    raise AssertionError("the last attempt returns or raises")


async def deposit(client: BrookClient, brook: str, amount: int) -> int:
    """Put money into an account that may not be open yet; returns the position of the deposit.

    What is decided rests on what the account is: so the expected position is given, and a conflict is decided anew.
    """
    expected: Expected = "empty"
    events = [event("AccountOpened", owner="me"), event("Deposited", amount=amount)]
    while True:
        reply = await append_for_certain(client, brook, events, expected=expected, command_id=str(uuid.uuid4()))
        match reply:
            case Appended(last_position=last):
                return last
            case ConcurrencyConflict(actual=head):
                # It is open by now, and its head is there. A new decision is a new command, with an id of its own.
                expected, events = head, [event("Deposited", amount=amount)]
            case Rejected(code=code, message=message):
                raise SystemExit(f"the command is wrong ({code}): {message}")
            case _:
                assert_never(reply)


async def main() -> None:
    """Two deposits at the same time, into one account: one of them finds it open."""
    brook = f"account|{sys.argv[1] if len(sys.argv) > 1 else uuid.uuid4()}"
    connect = with_connection_string(setting("BROOK_WORKER_SERVICEBUS_CONNECTION_STRING"))
    async with BrookClient(
        connect,
        command_queue=setting("BROOK_WORKER_COMMAND_QUEUE", "brook-commands"),
        reply_queue=setting("BROOK_WORKER_REPLY_QUEUE", "brook-replies"),
        session_buckets=int(setting("BROOK_WORKER_SESSION_BUCKETS", "") or 0) or None,
    ) as client:
        positions = await asyncio.gather(deposit(client, brook, 100), deposit(client, brook, 20))
    for position in positions:
        sys.stdout.write(json.dumps({"brook": brook, "position": position}) + "\n")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except BrookClientError as error:
        raise SystemExit(f"error: {error}") from error
