"""Append from ordinary threads: one client, many of them, no event loop in sight.

    python examples/python/produce_blocking.py [COMMANDS]

Needs BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, and a worker that runs.
"""

import argparse
import json
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from brook_client import BrookClientError, with_connection_string
from brook_client.sync import BrookClient
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId

THREADS = 8
BROOKS = 5


def setting(name: str, default: str | None = None) -> str:
    """A setting of the workers, by its variable; without a default it is needed."""
    value = os.environ.get(name, default)
    if value is None:
        raise SystemExit(f"error: set {name}, as README.md says under 'Programs in other languages'")
    return value


def reading(number: int) -> NewEvent:
    """Make the event of one measurement."""
    return NewEvent(event_id=f"reading-{number}", event_type="Measured", data=json.dumps({"value": number}).encode())


def measure(client: BrookClient, run: str, number: int) -> str:
    """Append one measurement; the kind of its reply."""
    reply = client.append(f"sensor|{run}-{number % BROOKS}", [reading(number)], command_id=f"{run}-{number}")
    return type(reply).__name__


def main() -> None:
    """Append from many threads, then the same number in one call, and count what became of them."""
    parser = argparse.ArgumentParser(description="Append from ordinary threads.")
    parser.add_argument("commands", type=int, nargs="?", default=40, help="as many from threads, and in one call")
    count = parser.parse_args().commands
    run = uuid.uuid4().hex[:8]
    connect = with_connection_string(setting("BROOK_WORKER_SERVICEBUS_CONNECTION_STRING"))
    with BrookClient(
        connect,
        command_queue=setting("BROOK_WORKER_COMMAND_QUEUE", "brook-commands"),
        reply_queue=setting("BROOK_WORKER_REPLY_QUEUE", "brook-replies"),
        session_buckets=int(setting("BROOK_WORKER_SESSION_BUCKETS", "") or 0) or None,
    ) as client:
        with ThreadPoolExecutor(THREADS) as threads:
            outcomes = list(threads.map(partial(measure, client, run), range(count)))
        together = [
            AppendCommand(
                command_id=CommandId(f"{run}-together-{number}"),
                brook=BrookKey("sensor", f"{run}-{number % BROOKS}"),
                expected="any",
                events=(reading(number),),
            )
            for number in range(count)
        ]
        outcomes += [type(received.reply).__name__ for received in client.request_many(together)]
    sys.stdout.write(json.dumps({kind: outcomes.count(kind) for kind in sorted(set(outcomes))}) + "\n")


if __name__ == "__main__":
    try:
        main()
    except BrookClientError as error:
        raise SystemExit(f"error: {error}") from error
