"""No secret in anything that a person or a log collector gets to see: planted, made to fail, and looked for."""

import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

import anyio
import pytest

from emulator.app import COSMOS_KEY, SERVICEBUS_KEY, Emulator
from emulator.blob import DEVELOPMENT_KEY
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.faults import Answer, DropBefore, Rule
from tests.support.site import QUICK
from tests.support.waiting import wait_until
from tests.support.worker_process import ROOT, worker_process
from worker.configuration import PREFIX, load_settings, variable
from worker.errors import SettingsError

pytestmark = pytest.mark.anyio


def planted(name: str) -> str:
    """A key as Azure's look, and unmistakable."""
    return base64.b64encode(f"PLANTED/{name}/?>~{'x' * 40}".encode()).decode()


SB_KEY, COSMOS, BLOB_KEY = planted("bus"), planted("cosmos"), planted("blob")
SIGNATURE: Final = planted("signature")
RIGHT_KEYS: Final = (SERVICEBUS_KEY, COSMOS_KEY, DEVELOPMENT_KEY)


def forms(secret: str) -> Iterator[str]:
    """A secret as it is, and in the ways in which it might be written somewhere."""
    yield from {secret, secret.rstrip("="), quote(secret, safe=""), quote_plus(secret), secret[:24], secret[-24:]}


def shown_in(text: str, secrets: tuple[str, ...] = (SB_KEY, COSMOS, BLOB_KEY, SIGNATURE)) -> list[str]:
    return [form for secret in secrets for form in forms(secret) if form in text]


def bus(host: str = "127.0.0.1:1") -> str:
    return f"Endpoint=sb://{host};SharedAccessKeyName=n;SharedAccessKey={SB_KEY};UseDevelopmentEmulator=true"


def blobs(endpoint: str = "http://127.0.0.1:1/devstoreaccount1") -> str:
    return f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={BLOB_KEY};BlobEndpoint={endpoint}"


NOWHERE: Final = {
    "servicebus_connection_string": bus(),
    "cosmos_endpoint": "http://127.0.0.1:1/",
    "cosmos_key": COSMOS,
    "blob_connection_string": blobs(),
}


def test_the_search_finds_a_secret_in_each_of_its_forms() -> None:
    for form in forms(SB_KEY):
        assert shown_in(f"Signing failed for {form}")
    assert not shown_in("SharedAccessKey=***")


@pytest.mark.parametrize(
    "changes",
    [
        {"servicebus_connection_string": SB_KEY},
        {"servicebus_connection_string": f"Endpoint=https://x;SharedAccessKeyName=n;SharedAccessKey={SB_KEY}"},
        {"servicebus_connection_string": f"{bus()};EntityPath=q"},
        {"servicebus_connection_string": f"Endpoint=sb://x;SharedAccessKey={SB_KEY}"},
        {"servicebus_connection_string": f"{bus()}\nEndpoint"},
        {"blob_connection_string": BLOB_KEY},
        {"blob_connection_string": f"AccountKey={BLOB_KEY}"},
        {"blob_connection_string": f"SharedAccessSignature=sv=1&sig={SIGNATURE}"},
        {"cosmos_endpoint": f"AccountEndpoint=https://x;AccountKey={COSMOS};"},
        {"cosmos_endpoint": f"https://user:{COSMOS}@x.documents.azure.com/"},
        {"cosmos_endpoint": f"https://x.documents.azure.com/?key={COSMOS}"},
        {"servicebus_namespace": bus()},
        {"azure_credential": COSMOS},
        {"azure_client_id": COSMOS},
        {"blob_account_url": f"https://x.blob.core.windows.net/?sv=1&sig={SIGNATURE}"},
        {"log_level": COSMOS},
        {"lease_duration_s": COSMOS},
        {"command_queue": bus()},
        {"reply_entities_allowed": f"a,{SB_KEY}"},
        {"cosmos_kye": COSMOS},
        {"lease_container": blobs()},
    ],
)
def test_a_secret_in_a_setting_that_is_refused_is_not_shown(changes: dict[str, str]) -> None:
    given = NOWHERE | changes
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={variable(name): value for name, value in given.items()})
    assert not shown_in(f"{caught.value}{caught.value!r}")


@pytest.mark.parametrize(
    "text",
    [
        f"cosmos_key = {COSMOS}",
        f'cosmos_key = "{COSMOS}',
        f'cosmos_key = "{COSMOS}" trailing',
        f'[cosmos]\nkey = "{COSMOS}"',
        f'cosmos_key = ["{COSMOS}"]',
        f'cosmos_key = "{COSMOS}"\ncosmos_key = "{COSMOS}"',
        f'log_level = "{COSMOS}"',
        f'servicebus_connection_string = {{ value = "{bus()}" }}',
    ],
)
def test_a_secret_in_a_file_that_is_refused_is_not_shown(text: str, tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, config_file=path)
    assert not shown_in(f"{caught.value}{caught.value!r}")


@pytest.fixture(scope="module")
async def azure() -> AsyncIterator[Emulator]:
    queues = tuple(QueueConfig(name=name, requires_session=True) for name in ("brook-commands", "brook-replies"))
    async with Emulator(config=ServiceBusConfig(queues=queues)) as emulator:
        yield emulator


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {variable(name): value for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}


async def output(settings: Mapping[str, str], *arguments: str) -> str:
    """All that a subcommand says. It fails, and without a traceback, which would show values."""
    with anyio.fail_after(90):
        done = await anyio.run_process(
            [sys.executable, "-m", "worker.cli", *arguments],
            env=environment(settings),
            check=False,
            input=b'{"commandId":"c","brook":{"name":"a","entityId":"1"},"expected":"any",'
            b'"events":[{"eventId":"1","eventType":"t","data":""}]}',
            stderr=subprocess.STDOUT,
        )
    text = done.stdout.decode()
    assert done.returncode == 1, text
    assert "Traceback" not in text
    return text


DEBUG: Final = {"log_level": "debug", "log_format": "json"}
COMMANDS: Final = (("check",), ("send", "-"), ("run",))


BUG: Final = """
import worker.commands.check
from worker.cli import main

async def bug(settings, **_):
    key = settings.cosmos_key.reveal()
    raise ExceptionGroup(f"cannot sign with {key}", [ValueError(f"{settings.blob_connection_string.reveal()}")])

worker.commands.check.check_and_tell = bug
main()
"""


async def test_the_traceback_of_a_bug_shows_where_it_is_and_no_key() -> None:
    done = await anyio.run_process(
        [sys.executable, "-c", BUG, "check"], env=environment(NOWHERE), check=False, stderr=subprocess.STDOUT
    )
    text = done.stdout.decode()
    assert done.returncode == 1
    assert "ExceptionGroup: cannot sign with ***" in text
    assert "ValueError: ***" in text
    assert "in bug" in text
    assert not shown_in(text)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
async def test_no_command_shows_a_key_that_is_refused(azure: Emulator, arguments: tuple[str, ...]) -> None:
    wrong = {
        "servicebus_connection_string": bus(f"127.0.0.1:{azure.servicebus.port}"),
        "cosmos_endpoint": azure.cosmos_endpoint,
        "cosmos_key": COSMOS,
        "blob_connection_string": blobs(azure.blob.endpoint),
    }
    text = await output(wrong | DEBUG, *arguments)
    assert not shown_in(text)
    assert "check " in text, "it says which setting to look at"


@pytest.mark.slow
async def test_no_command_shows_a_key_when_no_service_answers() -> None:
    said: list[str] = []

    async def one(arguments: tuple[str, ...]) -> None:
        said.append(await output(NOWHERE | DEBUG | {"auto_provision": "true"}, *arguments))

    async with anyio.create_task_group() as tasks:
        for arguments in (("check", "--json"), ("run",)):
            tasks.start_soon(one, arguments)
    assert len(said) == 2
    assert not shown_in("".join(said))


@pytest.mark.slow
async def test_no_command_shows_a_key_that_cannot_be_one(azure: Emulator) -> None:
    """What the settings let through the SDKs fail on in their own ways, some with a text that quotes it."""
    odd = {
        "servicebus_connection_string": f"{bus(f'127.0.0.1:{azure.servicebus.port}')}",
        "cosmos_endpoint": azure.cosmos_endpoint,
        "cosmos_key": f"{COSMOS}%",
        "blob_connection_string": blobs(azure.blob.endpoint).replace(BLOB_KEY, f"{BLOB_KEY}%"),
    }
    assert not shown_in(await output(odd | DEBUG, "check", "--json"))


@pytest.mark.slow
async def test_a_worker_shows_no_key_while_its_services_fail(azure: Emulator, tmp_path: Path) -> None:
    settings = {
        "servicebus_connection_string": azure.servicebus_connection_string,
        "cosmos_endpoint": azure.cosmos_endpoint,
        "cosmos_key": azure.cosmos_key,
        "blob_connection_string": azure.blob_connection_string,
    }
    async with worker_process(settings | QUICK | DEBUG, tmp_path / "worker.log") as worker:
        await worker.started()
        for effect in (DropBefore(), Answer(status=503), Answer(status=401, condition="amqp:unauthorized-access")):
            azure.faults.add(Rule(effect=effect))
            before = len(worker.lines())
            await wait_until(
                lambda count=before: len(worker.lines()) > count or worker.returncode is not None,
                f"the worker says something of {effect}",
                30,
            )
            azure.faults.clear()
        text = worker.text()
    assert not shown_in(text, RIGHT_KEYS)
    assert "SharedAccessSignature sr=" not in text
