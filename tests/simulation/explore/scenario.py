"""What a scenario is: who appends what to one brook, and how much may go wrong on the way."""

from typing import Any

import msgspec

from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.keys import BrookKey
from schemas.replies import RejectionCode
from schemas.types import CommandId
from tests.support.claims import claimed
from worker.handlers.lookup import Lookup
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand, prepare, prepare_withheld

KEY = BrookKey("b", "1")
TIME = "2026-01-31T12:00:00Z"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One bounded world.

    `sessions` lists the queues, each a row of indexes into `commands` (the same twice: its producer sent it twice).
    `writers` has the session that each writer serves. `faults_max` bounds how often, on one path, something goes
    wrong: a crash, a lost session, a lost, late or repeated request, a read of an older state. `late_max` bounds the
    requests on their way at once, `older_max` how many states behind a read may be. A worker has up to
    `ahead_max` groups in hand. With `expects_new`, brooks were new of late, so that workers take this one for new, too,
    whatever the first command expects. `weight` says which take long and are begun first.
    """

    name: str
    commands: tuple[PreparedCommand, ...]
    sessions: tuple[tuple[int, ...], ...]
    writers: tuple[int, ...]
    group_max: int = 2
    ahead_max: int = 1
    faults_max: int = 3
    late_max: int = 1
    older_max: int = 1
    operations_max: int = 2
    recent_max: int = 4
    replans_max: int = 2
    lookup: Lookup = Lookup.ALWAYS
    expects_new: bool = False
    documents: tuple[dict[str, Any], ...] = ()
    weight: int = 0

    @property
    def limits(self) -> Limits:
        """Chunks of `operations_max - 1` events."""
        return Limits(batch_operations_max=self.operations_max, recent_commands_max=self.recent_max)


def command(command_id: str, events: int = 1, expected: Expected = "any", *, content: str = "") -> PreparedCommand:
    """A command whose events tell where they belong; another `content` makes another command of the same id."""
    made = tuple(
        NewEvent(event_id=f"{command_id}{content}.{index}", event_type="t", data=b"") for index in range(events)
    )
    return prepare(
        AppendCommand(command_id=CommandId(command_id), brook=KEY, expected=expected, events=made), default_time=TIME
    )


def withheld(one: PreparedCommand) -> PreparedCommand:
    """The same command, sent by claim, as a worker has it that finds no blob."""
    assert isinstance(one.command, AppendCommand)
    sent, _ = claimed(one.command, payload_digest=one.digest)
    return prepare_withheld(sent, RejectionCode.CLAIM_MISSING, TIME)
