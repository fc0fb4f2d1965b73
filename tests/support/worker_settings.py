"""Settings for tests: complete, and pointing nowhere unless told otherwise."""

from typing import Any

import msgspec

from worker.redaction import Secret
from worker.settings import Settings

NOWHERE = Settings(
    servicebus_connection_string=Secret(
        "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=name;SharedAccessKey=servicebus-key;UseDevelopmentEmulator=true;"
    ),
    cosmos_endpoint="http://127.0.0.1:1",
    cosmos_key=Secret("Y29zbW9zLWtleQ=="),
    blob_connection_string=Secret(
        "DefaultEndpointsProtocol=http;AccountName=account;AccountKey=YmxvYi1rZXk=;BlobEndpoint=http://127.0.0.1:1/account;"
    ),
)


def worker_settings(**changes: Any) -> Settings:
    """`NOWHERE` with changes, checked against each other again."""
    return msgspec.structs.replace(NOWHERE, **changes)
