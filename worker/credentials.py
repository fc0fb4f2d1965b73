"""What the worker shows to the services to be let in: keys, or an identity of Microsoft Entra ID; never both silently.

Pure checks of settings; `worker.identity` gets the tokens.
"""

import base64
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from worker.settings import Settings

AzureCredential = Literal["managed", "workload", "default", "cli"]

_SERVICEBUS_ENDPOINT: Final = re.compile(r"sb://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?")

ON_THIS_MACHINE: Final = re.compile(r"(?:127\.0\.0\.1|localhost):[0-9]{1,5}")
"""A namespace of embedded services. They speak AMQP without TLS; what is sent to them does not leave the machine."""


def choice_problems(is_set: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """For each service exactly one way in: the settings of which both are set, or neither.

    `is_set` tells of a setting by its name whether it has a value.
    """
    by_identity = is_set("azure_credential")
    for secret, place in (
        ("servicebus_connection_string", "servicebus_namespace"),
        ("blob_connection_string", "blob_account_url"),
    ):
        if is_set(secret) and is_set(place):
            yield secret, f"is set, and so is {place}; keep only one of them: a key or an identity"
        elif is_set(place) and not by_identity:
            yield place, f"is set without azure_credential; set azure_credential too, or {secret} instead of {place}"
        elif not is_set(secret) and not is_set(place):
            yield secret, f"is missing; set it, or {place} and azure_credential to use an identity"
    if is_set("cosmos_key") and by_identity:
        yield (
            "cosmos_key",
            "is set, and so is azure_credential; keep only one of them: a key or an identity",
        )
    elif not is_set("cosmos_key") and not by_identity:
        yield "cosmos_key", "is missing; set it, or azure_credential to use an identity"
    if is_set("azure_client_id") and not by_identity:
        yield "azure_client_id", "is set without azure_credential; set azure_credential, or take it out"


def credential_problems(settings: "Settings") -> Iterator[tuple[tuple[str, ...], str]]:
    """Which settings it is about, the one to change first, and what is wrong; the text never quotes a secret."""
    for name, judge in (
        ("servicebus_connection_string", _servicebus_problem),
        ("blob_connection_string", _blob_problem),
        ("cosmos_key", _key_problem),
    ):
        secret = getattr(settings, name)
        if secret is not None and (problem := _quotes_problem(secret.reveal()) or judge(secret.reveal())) is not None:
            yield (name,), problem
    if settings.azure_credential is not None and settings.cosmos_endpoint.startswith("http://"):
        told = "is http://, but azure_credential needs https://: a token is never sent unencrypted"
        yield ("cosmos_endpoint", "azure_credential"), told
    if settings.azure_client_id is not None and settings.azure_credential == "cli":
        told = "is set, but azure_credential = cli is whoever logged in with `az login`; take it out"
        yield ("azure_client_id", "azure_credential"), told


def is_servicebus_emulator(settings: "Settings") -> bool:
    """Tell whether the namespace is an emulator, which speaks AMQP without TLS."""
    if settings.servicebus_namespace is not None:
        return ON_THIS_MACHINE.fullmatch(settings.servicebus_namespace) is not None
    secret = settings.servicebus_connection_string
    return secret is not None and "UseDevelopmentEmulator=true" in secret.reveal()


def servicebus_entry(settings: "Settings") -> str:
    """The settings to look at when Service Bus does not let us in."""
    by_key = settings.servicebus_connection_string is not None
    return "servicebus_connection_string" if by_key else "servicebus_namespace and the roles of the identity"


def cosmos_entry(settings: "Settings") -> str:
    """The settings to look at when Cosmos DB does not let us in."""
    return f"cosmos_endpoint and {'the roles of the identity' if settings.cosmos_key is None else 'cosmos_key'}"


def blob_entry(settings: "Settings") -> str:
    """The settings to look at when Blob Storage does not let us in."""
    by_key = settings.blob_connection_string is not None
    return "blob_connection_string" if by_key else "blob_account_url and the roles of the identity"


def parts(connection_string: str) -> dict[str, str] | None:
    """The names and values of a connection string, or None when it is not one."""
    pairs = [part.partition("=") for part in connection_string.strip().rstrip(";").split(";")]
    return None if any(not equals for _, equals, _ in pairs) else {name.strip(): value for name, _, value in pairs}


def _quotes_problem(secret: str) -> str | None:
    """Whether it was put into quotes, which a shell takes off and a file for `docker run --env-file` does not."""
    if len(secret) > 1 and secret[0] == secret[-1] and secret[0] in "\"'":
        return f"begins and ends with {secret[0]}; take these quotes off"
    return None


def _key_problem(key: str) -> str | None:
    """What keeps the Cosmos DB client from signing with it; the text never quotes it."""
    copy = "copy the account's key (Keys)"
    if ";" in key or "AccountEndpoint=" in key:
        return "is a connection string; give what stands behind AccountKey= in it, and the endpoint as cosmos_endpoint"
    return None if key.strip() and _is_base64(key) else f"is no key, which is base64; {copy}"


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False


def _servicebus_problem(connection_string: str) -> str | None:
    """What keeps the Service Bus client from using it; the text never quotes it."""
    copy = "copy the namespace's connection string (Shared access policies)"
    found = parts(connection_string)
    if found is None:
        return f"is not a connection string (name=value;name=value); {copy}"
    if _SERVICEBUS_ENDPOINT.fullmatch(found.get("Endpoint", "")) is None:
        return f"has no Endpoint=sb://…; {copy}"
    if any(name.lower() == "entitypath" for name in found):
        return f"has an EntityPath, so it is for one entity only; {copy}"
    if not found.get("SharedAccessSignature") and not (
        found.get("SharedAccessKeyName") and found.get("SharedAccessKey")
    ):
        return f"has no SharedAccessKeyName and SharedAccessKey; {copy}"
    emulator = next((value for name, value in found.items() if name.lower() == "usedevelopmentemulator"), None)
    if emulator is not None and (emulator != "true" or "UseDevelopmentEmulator" not in found):
        return "says UseDevelopmentEmulator other than exactly as UseDevelopmentEmulator=true; write it so or drop it"
    return None


def _blob_problem(connection_string: str) -> str | None:
    """What keeps the Blob client from using it; the text never quotes it."""
    copy = "copy the storage account's connection string (Access keys)"
    found = parts(connection_string)
    if found is None:
        return f"is not a connection string (name=value;name=value); {copy}"
    known = {name.lower(): value for name, value in found.items()}
    if known.get("usedevelopmentstorage") == "true":
        return None
    if not known.get("sharedaccesssignature") and not (known.get("accountname") and known.get("accountkey")):
        return f"has no AccountName and AccountKey; {copy}"
    if (key := known.get("accountkey")) and not _is_base64(key):
        return f"has an AccountKey that is no key, which is base64; {copy}"
    if not (known.get("accountname") or known.get("blobendpoint")):
        return f"has neither AccountName nor BlobEndpoint; {copy}"
    if known.get("sharedaccesssignature") and _leaves_unencrypted(known):
        return "is for http://, but has a SharedAccessSignature, which would be sent unencrypted; use https://"
    return None


def _leaves_unencrypted(known: dict[str, str]) -> bool:
    """Whether what is sent by this connection string leaves the machine without TLS."""
    if place := known.get("blobendpoint"):
        scheme, _, rest = place.lower().partition("://")
        return scheme == "http" and ON_THIS_MACHINE.fullmatch(rest.partition("/")[0]) is None
    return known.get("defaultendpointsprotocol", "").lower() == "http"
