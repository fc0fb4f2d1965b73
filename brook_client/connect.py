"""Ways to reach Service Bus."""

import re
import ssl
from collections.abc import Callable
from functools import cache

from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus.aio import ServiceBusClient

ConnectServiceBus = Callable[[int], ServiceBusClient]
"""Makes a Service Bus client that retries an operation so many times by itself."""

_ON_THIS_MACHINE = re.compile(r"(?:127\.0\.0\.1|localhost):[0-9]{1,5}")


def with_connection_string(connection_string: str) -> ConnectServiceBus:
    """Connect with a shared access key."""

    def connect(retry_total: int) -> ServiceBusClient:
        return ServiceBusClient.from_connection_string(connection_string, retry_total=retry_total, ssl_context=_tls())

    return connect


def with_credential(fully_qualified_namespace: str, credential: AsyncTokenCredential) -> ConnectServiceBus:
    """Connect to `name.servicebus.windows.net` as an identity. The credential stays the caller's to close.

    `127.0.0.1:PORT` are services on this machine, which are spoken to without TLS; nothing else is.
    """
    is_here = _ON_THIS_MACHINE.fullmatch(fully_qualified_namespace) is not None

    def connect(retry_total: int) -> ServiceBusClient:
        return ServiceBusClient(
            fully_qualified_namespace,
            credential,
            retry_total=retry_total,
            ssl_context=_tls(),
            use_tls=not is_here,
        )

    return connect


@cache
def _tls() -> ssl.SSLContext:
    """One TLS context for all connections.

    Left to itself, the client reads the system's certificates for each, on the event loop: 30 ms of processor time,
    even where TLS is off.
    """
    return ssl.create_default_context()
