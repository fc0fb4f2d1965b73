"""Containers: what Azure does with a request to one."""

from collections.abc import Mapping

import msgspec

from emulator.blob import lease as leases
from emulator.blob.conditions import NO_CONDITIONS, Conditions, check_write
from emulator.blob.errors import BlobError
from emulator.blob.lease import Lease, LeaseOperation
from emulator.blob.listing import Page, list_names
from emulator.blob.records import Container, check_container_name, check_metadata
from emulator.blob.store import Store


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What a request brings along to be let in: a lease id and conditions."""

    lease_id: str | None = None
    conditions: Conditions = NO_CONDITIONS


OPEN = Access()


class Containers:
    """Every method either changes durably what it says and returns the record, or raises BlobError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, name: str, metadata: Mapping[str, str]) -> Container:
        """Create an empty container; 409 where there is one."""
        check_container_name(name)
        check_metadata(dict(metadata))
        if name in self._store.folders:
            raise BlobError("ContainerAlreadyExists")
        container = Container(ticks=self._store.new_ticks(), modified_s=int(self._store.now_s), metadata=dict(metadata))
        return self._save(name, container)

    def get(self, name: str, access: Access = OPEN) -> Container:
        """The record. A lease id may be missing, but not wrong."""
        container = self._store.folder(name).record
        leases.check_access(container.lease, self._store.now_s, access.lease_id, write=False, kind="Container")
        return container

    def set_metadata(self, name: str, metadata: Mapping[str, str], access: Access = OPEN) -> Container:
        """Replace the metadata. A container's lease guards its deletion only."""
        container = self.get(name, access)
        check_metadata(dict(metadata))
        check_write(access.conditions, container.version)
        return self._save(
            name,
            msgspec.structs.replace(
                container,
                ticks=self._store.new_ticks(),
                modified_s=int(self._store.now_s),
                metadata=dict(metadata),
            ),
        )

    def delete(self, name: str, access: Access = OPEN) -> None:
        """Delete the container with its blobs, at once (Azure takes a while and keeps the name from reuse)."""
        container = self._store.folder(name).record
        leases.check_access(container.lease, self._store.now_s, access.lease_id, write=True, kind="Container")
        check_write(access.conditions, container.version)
        transaction = self._store.transaction()
        transaction.delete_container(name)
        transaction.commit()

    def lease(self, name: str, operation: LeaseOperation, access: Access = OPEN) -> tuple[Container, int]:
        """Carry out a lease operation: the record, and a break's remaining seconds. The ETag stays."""
        container = self._store.folder(name).record
        check_write(access.conditions, container.version)
        lease, remaining_s = leases.carry_out(container.lease, self._store.now_s, operation)
        return self._save(name, msgspec.structs.replace(container, lease=lease)), remaining_s

    def lease_now(self, container: Container) -> tuple[Lease, leases.LeaseState]:
        """The lease and its state at this moment."""
        return container.lease, container.lease.state(self._store.now_s)

    def list(self, *, prefix: str = "", start: str = "", limit: int = 5000) -> Page:
        """Names in order from `start`."""
        return list_names(sorted(self._store.folders), prefix=prefix, delimiter="", start=start, limit=limit)

    def _save(self, name: str, container: Container) -> Container:
        transaction = self._store.transaction()
        transaction.set_container(name, container)
        transaction.commit()
        return container
