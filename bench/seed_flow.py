"""The baseline: for each command what the .NET provider does, written as well as that flow allows.

python -m bench.seed_flow

Acquire the lease, read the head, renew the lease, one conditional batch (or, for a large append, begin, chunks and
commit), release the lease, reply, complete; then the next command. Settings, clients, event loop and the number of
sessions at once are those of the worker, and a session's messages are received many at a time too. What it decides
and the documents that it writes are the worker's own (`worker.protocol`), so that only the flow differs.
"""

import uuid
from typing import Any, Final

import anyio
import msgspec
from azure.core.exceptions import HttpResponseError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosResourceNotFoundError
from azure.servicebus import ServiceBusReceivedMessage
from azure.storage.blob.aio import BlobLeaseClient, BlobServiceClient

from bench.broker import Facts, ReplySenders, Session, serve_sessions
from bench.stopping import Stopping, end_at_once
from schemas.codec import decode_command
from schemas.keys import partition_key
from schemas.replies import Reply
from worker.clients import blob_service_client, brooks_container, cosmos_client, servicebus_client
from worker.commands.shared import run_async
from worker.configuration import load_settings
from worker.garbage import collect_seldom
from worker.locking.names import blob_name
from worker.protocol import pending as large
from worker.protocol.documents import HEAD_ID, read_head
from worker.protocol.model import ETag, Limits, StoredHead
from worker.protocol.pending import StoredBrook, StoredPending
from worker.protocol.plan import AppendBatch, LargeAppend, plan
from worker.protocol.prepare import PreparedCommand, prepare
from worker.protocol.verdicts import reply_to
from worker.protocol.writes import Create, Delete, Operation, Replace, append_events
from worker.settings import Settings

_CHARGE: Final = "x-ms-request-charge"


class Brooks:
    """The store, one request at a time, and what the requests of one command cost."""

    def __init__(self, container: ContainerProxy, settings: Settings) -> None:
        self._container = container
        self._limits = Limits(
            batch_operations_max=settings.batch_operations_max,
            batch_bytes_max=settings.batch_bytes_max,
            event_bytes_max=settings.event_bytes_max,
            recent_commands_max=settings.recent_commands_max,
        )

    async def head(self, command: PreparedCommand) -> tuple[StoredHead, float]:
        """The head by a point read, and its charge."""
        key = command.command.brook
        try:
            document = await self._container.read_item(HEAD_ID, partition_key(key))
        except CosmosResourceNotFoundError as error:
            return StoredHead(key=key), float(error.headers.get(_CHARGE, 0))
        stored = StoredHead(key=key, head=read_head(key, document), etag=ETag(document["_etag"]))
        return stored, float(document.get_response_headers()[_CHARGE])

    async def append(self, stored: StoredHead, command: PreparedCommand) -> tuple[Reply, float]:
        """Decide on one command and write what it takes; the reply and the charge."""
        decided = plan(stored, [command], self._limits)
        charge_ru = 0.0
        for step in decided.steps:
            match step:
                case AppendBatch():
                    _, cost_ru = await self._write(stored, append_events(stored, step.head, step.events))
                    charge_ru += cost_ru
                case LargeAppend():
                    charge_ru += await self._append_large(stored, step)
        return reply_to(command.command_id, decided.verdicts[0]), charge_ru

    async def _append_large(self, stored: StoredHead, step: LargeAppend) -> float:
        """Begin, chunks, commit."""
        pending, operations = large.begin(stored, step.before, step.command)
        etags, charge_ru = await self._write(stored, operations)
        marked = msgspec.structs.replace(step.before, pending=step.command.command_id)
        begun = StoredHead(key=stored.key, head=marked, etag=etags[0])
        marker = StoredPending(pending=pending, etag=_known(etags[1]))
        for chunk in large.chunks(stored.key, step.command, pending, self._limits):
            pending, operations = large.write_chunk(stored.key, marker, step.command, chunk)
            etags, cost_ru = await self._write(stored, operations)
            charge_ru += cost_ru
            marker = StoredPending(pending=pending, etag=_known(etags[0]))
        brook = StoredBrook(head=begun, pending=marker)
        _, operations = large.commit(brook, self._limits.recent_commands_max)
        _, cost_ru = await self._write(stored, operations)
        return charge_ru + cost_ru

    async def _write(self, stored: StoredHead, operations: tuple[Operation, ...]) -> tuple[list[ETag | None], float]:
        """One conditional batch, sent once: what the client would send again by itself could be applied twice."""
        results = await self._container.execute_item_batch(
            [_as_tuple(operation) for operation in operations],
            partition_key=partition_key(stored.key),
            retry_connect=0,
            retry_read=0,
            retry_status=0,
            no_response=True,
        )
        etags = [ETag(result["eTag"]) if result.get("eTag") else None for result in results]
        return etags, float(results.get_response_headers()[_CHARGE])


class Leases:
    """One blob lease for each command."""

    def __init__(self, service: BlobServiceClient, settings: Settings) -> None:
        self._service = service
        self._container = settings.lease_container
        self._duration_s = settings.lease_duration_s

    async def acquire(self, session_id: str) -> BlobLeaseClient:
        """Take the lease of a session; a blob that is missing is made."""
        blob = self._service.get_blob_client(self._container, blob_name(session_id))
        lease = BlobLeaseClient(blob, str(uuid.uuid4()))
        try:
            await lease.acquire(lease_duration=self._duration_s)
        except HttpResponseError as error:
            if error.status_code != 404:  # noqa: PLR2004 - not found
                raise
            await blob.upload_blob(b"", overwrite=False)
            await lease.acquire(lease_duration=self._duration_s)
        return lease


class SeedFlow:
    """Works on one session, one command after the other."""

    def __init__(self, brooks: Brooks, leases: Leases, replies: ReplySenders, stopping: Stopping) -> None:
        self._brooks = brooks
        self._leases = leases
        self._replies = replies
        self._stopping = stopping

    async def __call__(self, session: Session) -> None:
        """Command after command, until none comes."""
        while messages := await session.receive():
            for message in messages:
                if self._stopping.is_set:  # what was received and not begun is delivered again
                    return
                await self._one(session, message)

    async def _one(self, session: Session, message: ServiceBusReceivedMessage) -> None:
        received_at = message.enqueued_time_utc
        assert received_at is not None, "a received message has been enqueued"
        command = prepare(decode_command(b"".join(message.body), message.content_type), received_at.isoformat())
        lease = await self._leases.acquire(session.session_id)
        stored, read_ru = await self._brooks.head(command)
        await lease.renew()
        reply, written_ru = await self._brooks.append(stored, command)
        await lease.release()
        facts: Facts = {"groupCommands": 1, "groupRequestCharge": read_ru + written_ru}
        await self._replies.send([(message, reply, facts)])
        await session.complete([message])


def _known(etag: ETag | None) -> ETag:
    assert etag is not None, "the service names the state of what it wrote"
    return etag


def _as_tuple(operation: Operation) -> Any:
    match operation:
        case Create(document):
            return ("create", (document,))
        case Replace(document, if_match):
            return ("replace", (document["id"], document), {"if_match_etag": if_match})
        case Delete(document_id, if_match):
            return ("delete", (document_id,), {"if_match_etag": if_match} if if_match else {})


async def run(settings: Settings) -> None:
    """Work until a signal."""
    stopping = Stopping()
    async with (
        anyio.create_task_group() as tasks,
        cosmos_client(settings) as cosmos,
        blob_service_client(settings) as blobs,
        servicebus_client(settings) as reply_client,
        servicebus_client(settings) as client,
    ):
        await tasks.start(stopping.watch)
        container = brooks_container(cosmos, settings)
        replies = ReplySenders(reply_client, settings)
        flow = SeedFlow(Brooks(container, settings), Leases(blobs, settings), replies, stopping)
        collect_seldom()
        await serve_sessions(client, settings, flow, stopping)
        end_at_once()


def main() -> None:
    """Run on the event loop that the worker runs on."""
    run_async(run, load_settings())


if __name__ == "__main__":
    main()
