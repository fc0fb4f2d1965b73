"""Whether everything that a worker needs is there, reachable and allowed. Nothing is changed that anybody could see."""

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

from worker.checks.blob import check_blob
from worker.checks.cosmos import check_cosmos
from worker.checks.rows import Outcome, Row, Status, rows_of
from worker.checks.servicebus import check_servicebus
from worker.provisioning.concurrently import concurrently
from worker.settings import Settings

__all__ = ["Row", "Status", "check_all"]

_Service = Callable[..., Awaitable[dict[str, Outcome]]]
_SERVICES: Final[tuple[tuple[str, _Service], ...]] = (
    ("Service Bus", check_servicebus),
    ("Cosmos DB", check_cosmos),
    ("Blob Storage", check_blob),
)


async def check_all(settings: Settings, wall_s: Callable[[], float] = time.time) -> tuple[Row, ...]:
    """Look at all three services at once; each check is bounded, and none keeps another from being done.

    Never raises because of a service: what is wrong stands in the rows.
    """
    found = await concurrently(partial(check, settings, wall_s) for _, check in _SERVICES)

    def told() -> Iterator[Row]:
        yield Row(service="settings", check="credentials", status=Status.OK, note=_credentials(settings))
        for (service, _), outcomes in zip(_SERVICES, found, strict=True):
            yield from rows_of(service, outcomes)

    return tuple(told())


def _credentials(settings: Settings) -> str:
    """What is shown to each service, without showing it."""
    kind = settings.azure_credential
    who = f"identity ({kind}{', ' + settings.azure_client_id if settings.azure_client_id else ''})"
    shown = {
        "Service Bus": settings.servicebus_namespace is None,
        "Cosmos DB": settings.cosmos_key is not None,
        "Blob Storage": settings.blob_account_url is None,
    }
    return ", ".join(f"{service}: {'key' if by_key else who}" for service, by_key in shown.items())
