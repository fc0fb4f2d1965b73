"""For each service exactly one way in: a key or an identity, never both and never neither."""

import pytest

from worker.configuration import load_settings, variable
from worker.errors import SettingsError
from worker.settings import Settings

SECRET = "cGxhbnRlZA"
KEYS = {
    "servicebus_connection_string": f"Endpoint=sb://ns.example/;SharedAccessKeyName=n;SharedAccessKey={SECRET}==",
    "cosmos_key": f"{SECRET}==",
    "blob_connection_string": f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=core.windows.net",
}
IDENTITY = {
    "azure_credential": "managed",
    "servicebus_namespace": "ns.servicebus.windows.net",
    "blob_account_url": "https://a.blob.core.windows.net",
}
ENDPOINT = {"cosmos_endpoint": "https://a.documents.azure.com:443/"}
CLIENT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def load(given: dict[str, str]) -> Settings:
    return load_settings(environ={variable(name): value for name, value in given.items()})


def problems(given: dict[str, str]) -> dict[str, str]:
    """What is told, by setting."""
    with pytest.raises(SettingsError) as caught:
        load(given)
    assert SECRET not in str(caught.value)
    told = (line.partition(": ") for line in caught.value.problems)
    return {name.removeprefix("BROOK_WORKER_").lower(): text for name, _, text in told}


def without(given: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize("kind", ["managed", "workload", "default", "cli"])
def test_an_identity_for_all_three_services_needs_no_secret(kind: str) -> None:
    settings = load(ENDPOINT | IDENTITY | {"azure_credential": kind})
    assert settings.secrets() == ()
    assert settings.azure_credential == kind


@pytest.mark.parametrize("kind", ["managed", "workload", "default"])
def test_one_of_several_identities_is_named_by_its_client_id(kind: str) -> None:
    given = ENDPOINT | IDENTITY | {"azure_credential": kind, "azure_client_id": CLIENT_ID}
    assert load(given).azure_client_id == CLIENT_ID


def test_an_identity_for_cosmos_db_alone_goes_with_connection_strings_for_the_others() -> None:
    settings = load(ENDPOINT | without(KEYS, "cosmos_key") | {"azure_credential": "default"})
    assert len(settings.secrets()) == 2


@pytest.mark.parametrize(
    ("secret", "other"),
    [
        ("servicebus_connection_string", "servicebus_namespace"),
        ("blob_connection_string", "blob_account_url"),
        ("cosmos_key", "azure_credential"),
    ],
)
def test_a_key_and_an_identity_for_one_service_are_refused_and_both_are_named(secret: str, other: str) -> None:
    found = problems(ENDPOINT | IDENTITY | {secret: KEYS[secret]})
    assert list(found) == [secret]
    assert f"is set, and so is {other}; keep only one of them" in found[secret]


@pytest.mark.parametrize(
    ("secret", "other"),
    [
        ("servicebus_connection_string", "servicebus_namespace and azure_credential"),
        ("blob_connection_string", "blob_account_url and azure_credential"),
        ("cosmos_key", "azure_credential"),
    ],
)
def test_neither_is_refused_and_both_are_named(secret: str, other: str) -> None:
    found = problems(ENDPOINT | without(KEYS, secret))
    assert list(found) == [secret]
    assert f"is missing; set it, or {other} to use an identity" in found[secret]


def test_an_endpoint_for_an_identity_without_a_credential_is_refused() -> None:
    found = problems(ENDPOINT | {"cosmos_key": KEYS["cosmos_key"]} | without(IDENTITY, "azure_credential"))
    assert set(found) == {"servicebus_namespace", "blob_account_url"}
    assert "set azure_credential too, or servicebus_connection_string instead" in found["servicebus_namespace"]


def test_all_is_told_at_once_also_when_the_endpoint_is_missing() -> None:
    assert set(problems({"blob_account_url": "https://a.blob.core.windows.net"})) == {
        "cosmos_endpoint",
        "servicebus_connection_string",
        "cosmos_key",
        "blob_account_url",
    }


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({"cosmos_endpoint": "http://127.0.0.1:1/"}, "cosmos_endpoint", "a token is never sent unencrypted"),
        ({"blob_account_url": "http://a.blob.core.windows.net"}, "blob_account_url", "use a URL such as https://"),
        ({"blob_account_url": "https://a.blob.core.windows.net?sig=x"}, "blob_account_url", "use a URL such as"),
        ({"servicebus_namespace": "sb://ns.servicebus.windows.net"}, "servicebus_namespace", "use a host name"),
        ({"servicebus_namespace": "ns.servicebus.windows.net:5671"}, "servicebus_namespace", "use a host name"),
        ({"servicebus_namespace": "10.0.0.1:5672"}, "servicebus_namespace", "use a host name"),
        ({"azure_credential": "password"}, "azure_credential", "use one of cli, default, managed, workload"),
        ({"azure_client_id": "my-identity"}, "azure_client_id", "use the client id of an identity, a GUID"),
        (
            {"azure_credential": "cli", "azure_client_id": CLIENT_ID},
            "azure_client_id",
            "is whoever logged in with `az login`; take it out",
        ),
    ],
)
def test_what_an_identity_cannot_be_used_with_is_refused(changes: dict[str, str], name: str, told: str) -> None:
    assert told in problems(ENDPOINT | IDENTITY | changes)[name]


def test_a_client_id_without_a_credential_is_refused() -> None:
    assert (
        "is set without azure_credential"
        in problems(ENDPOINT | KEYS | {"azure_client_id": CLIENT_ID})["azure_client_id"]
    )


def test_an_empty_variable_is_as_if_it_were_not_set() -> None:
    assert load(ENDPOINT | KEYS | {"azure_credential": "", "servicebus_namespace": " "}).azure_credential is None
