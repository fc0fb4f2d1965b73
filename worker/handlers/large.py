"""Carries out an append that does not fit one batch: begin, chunks, commit. It shows whole or not at all."""

from typing import Final

import msgspec

from worker.handlers.brook import BatchFacts, BrookWriter, settled_at
from worker.protocol import pending as rules
from worker.protocol.model import StoredHead
from worker.protocol.pending import StoredBrook, StoredPending
from worker.protocol.plan import LargeAppend
from worker.protocol.prepare import PreparedCommand
from worker.storage.base import StoreRefusedError, Written
from worker.telemetry import log

_PROGRESS_CHUNKS: Final = 100
"""How many chunks lie between two lines of progress."""


async def append_large(writer: BrookWriter, step: LargeAppend) -> BatchFacts | None:
    """Carry a large append out; None when a write was refused, and what is pending has to be loaded and resumed."""
    stored = writer.stored
    if stored is None:
        return None
    cost = _Cost()
    pending, operations = rules.begin(stored.head, step.before, step.command)
    result = await writer.write(operations, request_bytes=0)
    if result is None:
        return None
    cost.add(result, 0)
    before = msgspec.structs.replace(step.before, pending=step.command.command_id)
    _believe(writer, StoredHead(key=stored.key, head=before, etag=result.etags[0]), pending, result, index=1)
    log.info("append.begun", brook=str(stored.key), command=step.command.command_id, target=pending.target)
    return await complete(writer, step.command, cost)


async def complete(writer: BrookWriter, command: PreparedCommand, cost: "_Cost | None" = None) -> BatchFacts | None:
    """Write what is missing of a large append under way, and commit it; None as in `append_large`."""
    cost = cost or _Cost()
    brook = writer.stored
    if brook is None or brook.pending is None:
        return None
    for number, chunk in enumerate(rules.chunks(brook.key, command, brook.pending.pending, writer.limits), start=1):
        brook = writer.stored
        if brook is None or brook.pending is None:
            return None
        after, operations = rules.write_chunk(brook.key, brook.pending, command, chunk)
        result = await writer.write(operations, chunk.request_bytes)
        if result is None:
            if writer.too_large_alone:
                # Whoever comes next rolls back what was begun: this command is not to stand in the brook's way.
                raise StoreRefusedError(f"the store takes no event of {chunk.request_bytes:,} bytes")
            return None
        cost.add(result, chunk.request_bytes)
        _believe(writer, brook.head, after, result, index=0)
        if number % _PROGRESS_CHUNKS == 0:
            log.info("append.progress", brook=str(brook.key), command=command.command_id, written=after.written)
    return await _commit(writer, len(command), cost)


async def commit_pending(writer: BrookWriter) -> bool:
    """Commit an append all events of which exist; False when that was refused."""
    return await _commit(writer, 0, _Cost()) is not None


async def _commit(writer: BrookWriter, events: int, cost: "_Cost") -> BatchFacts | None:
    brook = writer.stored
    if brook is None:
        return None
    head, operations = rules.commit(brook, writer.limits.recent_commands_max)
    result = await writer.write(operations, request_bytes=0)
    if result is None:
        return None
    cost.add(result, 0)
    etag = result.etags[0]
    committed = StoredHead(key=brook.key, head=head, etag=etag)
    writer.took_effect(settled_at(committed) if etag is not None else None)
    return BatchFacts(
        commands=1,
        events=events,
        request_bytes=cost.request_bytes,
        charge_ru=cost.charge_ru,
        attempts=cost.attempts,
        batches=cost.batches,
    )


class _Cost:
    """What the batches of one large append add up to."""

    def __init__(self) -> None:
        self.batches = 0
        self.attempts = 0
        self.request_bytes = 0
        self.charge_ru = 0.0

    def add(self, result: Written, request_bytes: int) -> None:
        self.batches += 1
        self.attempts += result.attempts
        self.request_bytes += request_bytes
        self.charge_ru += result.charge_ru


def _believe(writer: BrookWriter, head: StoredHead, pending: rules.Pending, result: Written, *, index: int) -> None:
    """Keep what a write left; without the states' names nothing can be built on it, and it is loaded again."""
    etag = result.etags[index]
    known = head.etag is not None and etag is not None
    writer.took_effect(
        StoredBrook(head=head, pending=StoredPending(pending=pending, etag=etag)) if known and etag else None
    )
