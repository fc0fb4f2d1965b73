"""The examples, each as the program that it is, against the embedded services and a worker."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.abc
import pytest
from azure.cosmos import PartitionKey
from hypothesis import given, settings
from hypothesis import strategies as st

from brook_client import BrookClient, with_connection_string
from emulator.faults import Answer, Rule
from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.types import Position
from tests.support.brooks import command, prepared
from tests.support.node import NodeUnavailableError, installed, node
from tests.support.processes import gone_at_end
from tests.support.site import DATABASE, SUBSCRIPTION, TOPIC, Place, Site, running_site
from worker.configuration import PREFIX, variable
from worker.protocol.documents import Document
from worker.protocol.writes import Create
from worker.storage.base import Written

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUN_S = 60


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("site")) as it:
        yield it


@pytest.fixture(scope="module")
async def place(site: Site) -> AsyncIterator[Place]:
    """A place with a worker, for all examples that need one."""
    it = site.place()
    async with it.ready_worker(reply_entities_allowed=TOPIC):
        yield it


@pytest.fixture(scope="module")
def node_modules() -> Path:
    try:
        return installed("azure-service-bus-7.9.5", "@azure/service-bus@7.9.5") / "node_modules"
    except NodeUnavailableError as error:
        pytest.skip(str(error))


def environment(place: Place, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = {variable(name): value for name, value in place.settings().items()}
    return kept | given | {"PYTHONPATH": str(ROOT)} | more


@asynccontextmanager
async def running(words: list[str], given: Mapping[str, str], folder: Path = ROOT) -> AsyncIterator[anyio.abc.Process]:
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=given, cwd=folder
        )
    async with gone_at_end(process):
        yield process


async def finished(words: list[str], given: Mapping[str, str], folder: Path = ROOT) -> list[Any]:
    """Run to the end; the lines that were printed, read as JSON."""
    with anyio.fail_after(RUN_S):
        done = await anyio.run_process(words, env=given, cwd=folder, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def python(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / "python" / name), *arguments]


# --- Python producers and consumers ---


@pytest.mark.parametrize(
    "words",
    [
        ["produce_and_await.py"],
        ["produce_blocking.py"],
        ["consume_replies.py", "topic", "subscription"],
        ["projection.py", "follow", "model.db"],
    ],
    ids=lambda words: words[0],
)
async def test_a_setting_that_is_not_there_is_one_line(words: list[str], tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with anyio.fail_after(RUN_S):
        done = await anyio.run_process(
            python(*words), env=kept | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=False, stdin=subprocess.DEVNULL
        )
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert re.fullmatch(r"error: set BROOK_WORKER_\w+, as README\.md says under '(.*)'", line)
    title = line.partition("'")[2].rstrip("'")
    assert f"## {title}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_read_model_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    words = python("projection.py", "show", "model.db")
    done = subprocess.run(words, env=environ, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: model.db is not there; make it with `follow`\n")
    assert list(tmp_path.iterdir()) == []


async def test_two_who_decide_on_the_same_account_are_both_right_in_the_end(place: Place) -> None:
    printed = await finished(python("produce_and_await.py", "ours"), environment(place))
    assert sorted(line["position"] for line in printed) == [1, 2]
    events = await place.events(BrookKey("account", "ours"))
    assert [event.event_type for event in events] == ["AccountOpened", "Deposited", "Deposited"]
    assert sorted(json.loads(event.data)["amount"] for event in events[1:]) == [20, 100]


async def test_threads_append_with_the_blocking_client(place: Place) -> None:
    assert await finished(python("produce_blocking.py", "30"), environment(place)) == [{"Appended": 60}]


async def test_consumers_hear_of_every_command_by_the_topic_one_after_the_other(site: Site, place: Place) -> None:
    words = python("consume_replies.py", TOPIC, SUBSCRIPTION)
    sent = [command(command_id=f"audited-{number}", key=BrookKey("audited", "1")) for number in range(30)]
    connect = with_connection_string(site.ready.servicebus_connection_string)
    async with BrookClient(
        connect, command_queue=place.command_queue, reply_topic=TOPIC, subscription=SUBSCRIPTION
    ) as client:
        await client.send_many(sent)
    first = {line["commandId"] for line in await finished([*words, "10"], environment(place))}
    assert len(first) == 10
    async with running(words, environment(place)) as second:
        assert first | await command_ids(second, 20) == {one.command_id for one in sent}
        second.send_signal(signal.SIGTERM)
        with anyio.fail_after(RUN_S):
            assert await second.wait() == 0


async def command_ids(process: anyio.abc.Process, count: int) -> set[str]:
    """The command ids of the first lines that it prints, as soon as there are so many."""
    assert process.stdout is not None
    found: set[str] = set()
    rest = b""
    with anyio.fail_after(RUN_S):
        while len(found) < count:
            *lines, rest = (rest + await process.stdout.receive()).split(b"\n")
            found |= {json.loads(line)["commandId"] for line in lines}
    return found


# --- the projection ---


def loaded(name: str) -> ModuleType:
    """A Python example as a module, to look at what it has made."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "python" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(path: Path) -> dict[str, Any]:
    with closing(loaded("projection").ReadModel(path)) as model:
        found: dict[str, Any] = model.shown()
        return found


def counts(path: Path, name: str) -> dict[str, int]:
    """The events of each brook of this name, by its key."""
    brooks = shown(path)["brooks"]
    return {brook: facts["events"] for brook, facts in brooks.items() if brook.startswith(f"{name}|")}


async def leave_half_an_append(place: Place, key: BrookKey) -> None:
    """As a worker leaves it that dies amid a large append: one event is committed, three more are written."""
    common = {"brookPartitionKey": partition_key(key)}
    marker = {"originalPosition": 0, "position": 9, "writtenPosition": 3, "commandId": "big", "payloadDigest": "d"}
    documents: list[Document] = [
        {"id": "head", "type": "head", **common, "position": 0, "pending": "big"},
        {"id": "head-pending", "type": "head-pending", **common, **marker},
        *(prepared(key=key).event_document(0, Position(position)) for position in range(4)),
    ]
    assert isinstance(await place.store.write(key, [Create(document) for document in documents]), Written)


async def test_the_projection_shows_what_is_committed_and_nothing_past_the_head(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "model.db"
    orphan, whole = BrookKey("projected", "orphan"), BrookKey("projected", "größe")
    await leave_half_an_append(place, orphan)
    once = python("projection.py", "follow", str(path), "--once")
    await finished(once, environment(place))
    assert counts(path, "projected") == {str(orphan): 1}
    async with place.client() as (client, replies):
        # The worker rolls the orphan back, and other events come to stand where its events stood.
        sent = [command(key=orphan, events=2), command(key=whole, events=250)]
        await client.send_many(sent)
        await replies.to_each(sent)
    assert len(await finished(once, environment(place))) == 1
    assert {str(key): len(await place.events(key)) for key in (orphan, whole)} == {str(orphan): 3, str(whole): 250}
    assert counts(path, "projected") == {str(orphan): 3, str(whole): 250}


async def test_a_projection_killed_again_and_again_counts_each_event_once(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "model.db"
    keys = [BrookKey("killed", str(number)) for number in range(10)]
    follow = python("projection.py", "follow", str(path))
    async with place.client() as (client, replies), anyio.create_task_group() as tasks:

        async def produce() -> None:
            for _ in range(5):
                commands = [command(key=key, events=3) for key in keys]
                await client.send_many(commands)
                await replies.to_each(commands)

        tasks.start_soon(produce)
        for _ in range(2):
            async with running(follow, environment(place)) as process:
                assert process.stdout is not None
                with anyio.fail_after(RUN_S):
                    await process.stdout.receive()  # amid the rest
                process.kill()
    await finished([*follow, "--once"], environment(place))
    assert counts(path, "killed") == {str(key): 15 for key in keys}
    found = shown(path)
    events = sum(brook["events"] for brook in found["brooks"].values())
    assert sum(found["eventTypes"].values()) == events, "each event is counted once"


async def test_a_projection_outlives_an_outage_and_ends_when_told(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "model.db"
    one = command(key=BrookKey("outage", "1"))
    async with place.client() as (client, replies):
        await client.send(one)
        await replies.to_each([one])
    refused = Rule(service="cosmos", operation="change-feed", effect=Answer(status=403))
    async with AsyncExitStack() as outage:
        await outage.enter_async_context(place.rule(refused))
        async with running(python("projection.py", "follow", str(path)), environment(place)) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            with anyio.fail_after(RUN_S):
                assert b"trying again" in await process.stderr.receive()
                await outage.aclose()
                assert b"headsMoved" in await process.stdout.receive()
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
    assert counts(path, "outage") == {"outage|1": 1}


async def test_a_container_of_several_partitions_is_followed_whole(site: Site, tmp_path: Path) -> None:
    at, path = site.place(), tmp_path / "model.db"
    database = await site.cosmos.create_database_if_not_exists(DATABASE)
    await database.create_container(at.container_name, PartitionKey("/brookPartitionKey"), offer_throughput=30_000)
    assert len([each async for each in at.container.read_feed_ranges()]) > 1
    keys = [BrookKey("spread", str(number)) for number in range(12)]
    for position in range(2):
        for key in keys:
            head = {"id": "head", "type": "head", "brookPartitionKey": partition_key(key), "position": position}
            await at.container.upsert_item(head)
            await at.container.create_item(prepared(key=key).event_document(0, Position(position)))
        await finished(python("projection.py", "follow", str(path), "--once"), environment(at))
        assert counts(path, "spread") == {str(key): position + 1 for key in keys}


class Behind:
    """A reader of a replica that is behind, for so many readings."""

    def __init__(self, readings: int) -> None:
        self._readings = readings

    async def read_forward(self, key: BrookKey, from_position: int) -> AsyncIterator[RecordedEvent]:
        self._readings -= 1
        for position in range(from_position, 1 if self._readings >= 0 else 3):
            yield RecordedEvent(
                position=Position(position), event_id="e", event_type="t", data=b"", time="2026-01-31T12:00:00Z"
            )


async def test_a_replica_that_is_behind_is_read_again_before_the_feed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = loaded("projection")
    monkeypatch.setattr(example, "BEHIND_PAUSE_S", 0.0)
    with closing(example.ReadModel(tmp_path / "model.db")) as model:
        await example.Projection(None, Behind(3), model)._take_over("orders|1", 2)
        assert model.next_position("orders|1") == 3
        with pytest.raises(example.BehindError, match=r"orders\|2: its head is at 2"):
            await example.Projection(None, Behind(100), model)._take_over("orders|2", 2)
        assert model.next_position("orders|2") == 1, "what could be read was taken over"


def test_a_document_that_is_no_head_of_a_brook_is_passed_over_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    good = {"type": "head", "brookPartitionKey": "orders|1", "position": 4}
    documents = [
        {"id": "x"},
        {"type": "event", "brookPartitionKey": "orders|2", "position": 9},
        {"type": "head"},
        good | {"brookPartitionKey": "no key"},
        good | {"brookPartitionKey": "orders|3", "position": "many"},
        good | {"brookPartitionKey": "orders|4", "position": -1},
        good,
    ]
    assert loaded("projection").heads(documents) == {"orders|1": 4}
    assert capsys.readouterr().err.count("passed over") == 3


# --- JavaScript ---


@pytest.fixture(scope="module")
def javascript(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as after `npm install`: its packages beside it."""
    folder = tmp_path_factory.mktemp("examples") / "javascript"
    # Whoever has followed the page has packages of their own there.
    shutil.copytree(EXAMPLES / "javascript", folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(EXAMPLES / "session-ids.json", folder.parent)
    (folder / "node_modules").symlink_to(node_modules)
    return folder


async def test_the_javascript_producer_gets_its_replies(place: Place, javascript: Path) -> None:
    replies = await finished([node(), "append.mjs", "größe", "4"], environment(place), javascript)
    assert [(reply["outcome"], reply["firstPosition"]) for reply in replies] == [("appended", n) for n in range(4)]
    events = await place.events(BrookKey("basket", "größe"))
    assert [event.event_type for event in events] == ["BasketOpened", "ItemAdded", "ItemAdded", "ItemAdded"]
    assert json.loads(events[3].data) == {"item": "Größe 3"}


async def test_the_javascript_producer_goes_on_when_its_reply_session_is_lost(place: Place, javascript: Path) -> None:
    given = environment(place, REPLY_SESSION="javascript-1")
    async with running([node(), "append.mjs", "lost-session", "20"], given, javascript) as process:
        assert process.stdout is not None
        printed = await process.stdout.receive()
        await place.control.take_session_lock(place.reply_queue, "javascript-1")
        with anyio.fail_after(RUN_S):
            while printed.count(b"\n") < 20:
                printed += await process.stdout.receive()
            assert await process.wait() == 0
    assert len(await place.events(BrookKey("basket", "lost-session"))) == 20


def test_known_session_ids_are_made_in_javascript_too(javascript: Path) -> None:
    done = subprocess.run(
        [node(), "check-session-ids.mjs", "../session-ids.json"],
        cwd=javascript,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "50 of 50" in done.stdout


class NodeSessions:
    """The JavaScript function, in one process for many questions."""

    def __init__(self, folder: Path) -> None:
        program = (
            'import { createInterface } from "node:readline";'
            'import { sessionIdFor } from "./session-id.mjs";'
            "for await (const line of createInterface({ input: process.stdin })) {"
            "  const { brook, buckets } = JSON.parse(line);"
            "  console.log(JSON.stringify(sessionIdFor(brook, buckets)));"
            "}"
        )
        self._process = subprocess.Popen(
            [node(), "--input-type=module", "-e", program],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def ask(self, key: BrookKey, buckets: int | None) -> str:
        asked: dict[str, Any] = {"brook": {"name": key.name, "entityId": key.entity_id}}
        if buckets is not None:
            asked["buckets"] = buckets
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=RUN_S)


PARTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="|"), min_size=1, max_size=150)


def test_session_ids_are_the_same_in_javascript_as_in_python(javascript: Path) -> None:
    sessions = NodeSessions(javascript)

    @settings(max_examples=150, deadline=None)
    @given(PARTS, PARTS, st.none() | st.integers(1, 100_000))
    def agree(name: str, entity_id: str, buckets: int | None) -> None:
        key = BrookKey(name, entity_id)
        assert sessions.ask(key, buckets) == session_id_for(key, buckets)

    try:
        agree()
    finally:
        sessions.close()
