"""One brook under a writer's hands: what is believed of it, and the writes that change both it and the belief."""

from collections.abc import Sequence

import msgspec

from schemas.keys import BrookKey
from schemas.types import POSITION_MAX
from worker.protocol.documents import Document, encoded_bytes
from worker.protocol.model import Limits, StoredHead
from worker.protocol.pending import StoredBrook
from worker.protocol.writes import Create, Operation
from worker.storage.base import BrookStore, Diverged, StoreRefusedError, TooLarge, Written

_DOCUMENT_AND_EVENT = 2  # head or head-pending, and one event: nothing is left to split


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the batch, or the batches of a large append, held and cost."""

    commands: int
    events: int
    request_bytes: int
    charge_ru: float
    attempts: int
    batches: int = 1


class BrookState:
    """What a session knows of a brook between its groups: the brook as it last stood, or nothing."""

    def __init__(self, key: BrookKey) -> None:
        self.key = key
        self.stored: StoredBrook | None = None
        self.was_looked_at = False
        """Whether anything was ever read or written of it."""

    def presume_new(self) -> None:
        """Take it for a brook that does not exist. Whatever is built on that must create the head, which proves it."""
        assert not self.was_looked_at, "what is known is not presumed"
        self.stored = settled_at(StoredHead(key=self.key))

    def forget(self) -> None:
        """It may have changed: load it before the next decision."""
        self.stored = None


class BrookWriter:
    """Loads and writes one brook for the length of one group, and keeps count of it.

    Guarantee: `stored` is None or what the store last said; every refusal and every error leaves it None.
    """

    def __init__(self, store: BrookStore, brook: BrookState, limits: Limits) -> None:
        self._store = store
        self._brook = brook
        self.limits = limits
        self.charge_ru = 0.0
        self.progressed = False
        """Whether a write took effect since this was last set to False."""
        self.narrowed = False
        """Whether the store found a request too large since this was last set to False."""
        self.too_large_alone = False
        """Whether the store has refused a single event for its size."""
        self.blocked_on: StoredBrook | None = None
        """The state on which an event could not be created, if the last refusal was of that kind."""

    @property
    def key(self) -> BrookKey:
        """The brook."""
        return self._brook.key

    @property
    def stored(self) -> StoredBrook | None:
        """The brook as it last stood; None when it has to be loaded."""
        return self._brook.stored

    async def load(self) -> StoredBrook:
        """The brook as it stands."""
        self._brook.was_looked_at = True
        loaded = await self._store.load(self.key)
        self.charge_ru += loaded.charge_ru
        self._brook.stored = loaded.brook
        return loaded.brook

    def took_effect(self, stored: StoredBrook | None) -> None:
        """Believe `stored` from now on; None where the store did not say what the states are called."""
        self._brook.stored = stored

    def forget(self) -> None:
        """Load the brook before the next decision."""
        self._brook.forget()

    async def write(self, operations: Sequence[Operation], request_bytes: int) -> Written | None:
        """Send one conditional batch; None when nothing took effect and the brook has to be planned anew.

        A batch that the store finds too large halves the limits for the rest of the group; a single event that it finds
        too large bounds what an event may be.
        """
        built_on = self._brook.stored
        self._brook.forget()
        self._brook.was_looked_at = True
        self.blocked_on = None
        result = await self._store.write(self.key, operations)
        match result:
            case TooLarge():
                self.narrowed = True
                event = _single_event(operations)
                self.too_large_alone = event is not None
                self.limits = _halved(self.limits, request_bytes) if event is None else _below(self.limits, event)
                self._brook.stored = built_on
                return None
            case Diverged(operation=operation, charge_ru=charge_ru):
                self.charge_ru += charge_ru
                # The head stood as expected, and yet an event could not be created: see what a new load says.
                self.blocked_on = built_on if operation > 0 else None
                return None
            case Written(charge_ru=charge_ru):
                self.charge_ru += charge_ru
                self.progressed = True
                return result


def settled_at(head: StoredHead) -> StoredBrook:
    """A brook with nothing pending."""
    return StoredBrook(head=head)


def _single_event(operations: Sequence[Operation]) -> Document | None:
    """The event in a batch that cannot be split: beside it there is only what moves the head, or head-pending."""
    last = operations[-1]
    if len(operations) != _DOCUMENT_AND_EVENT or not isinstance(last, Create) or last.document["type"] != "event":
        return None
    return last.document


def _below(limits: Limits, event: Document) -> Limits:
    """Limits under which no event as large as this one is tried again. Smaller ones may fit."""
    # As large as it would be where positions have most digits: they stand in `id` and in `position`.
    refused_bytes = encoded_bytes(event) + 2 * (len(str(POSITION_MAX)) - len(event["id"]))
    return msgspec.structs.replace(limits, event_refused_bytes=refused_bytes)


def _halved(limits: Limits, request_bytes: int) -> Limits:
    """Limits that split a batch that was too large for the service, and leave what an event may hold as it was."""
    try:
        return msgspec.structs.replace(
            limits, batch_bytes_max=request_bytes // 2, event_alone_bytes_max=limits.single_event_bytes_max
        )
    except ValueError as error:
        reason = f"the store takes no batch of {request_bytes:,} bytes; raise the limit of the service"
        raise StoreRefusedError(reason) from error
