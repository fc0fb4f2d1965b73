import errno
import io
import json
import logging
import warnings
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import structlog

from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId
from tests.support.worker_settings import NOWHERE, worker_settings
from worker.logs import configure_logs
from worker.redaction import Secret

SECRETS = ("servicebus-key", "Y29zbW9zLWtleQ==", "YmxvYi1rZXk=")
PAYLOAD = "the customer's secret payload"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(log_format: str = "json", log_level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(worker_settings(log_format=log_format, log_level=log_level), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_name_level_and_time_in_utc() -> None:
    stream = logged()
    structlog.get_logger().info("append.committed", brook="orders|1", first=0, last=4, charge_ru=9.5, ok=True)
    [line] = lines(stream)
    time = datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == UTC.utcoffset(None)
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert line == {
        "event": "append.committed",
        "level": "info",
        "brook": "orders|1",
        "first": 0,
        "last": 4,
        "charge_ru": 9.5,
        "ok": True,
    }


def test_auto_is_for_people_on_a_terminal_and_for_machines_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        configure_logs(worker_settings(log_format="auto"), stream)
        structlog.get_logger().info("worker.started", queue="brook-commands")
    assert "\x1b[" in terminal.getvalue()
    assert "worker.started" in terminal.getvalue()
    assert lines(file)[0]["queue"] == "brook-commands"


def test_below_the_level_nothing_is_logged() -> None:
    stream = logged(log_level="warning")
    structlog.get_logger().info("append.committed")
    structlog.get_logger().warning("lease.renewal-failed")
    assert [line["event"] for line in lines(stream)] == ["lease.renewal-failed"]


def test_libraries_are_heard_from_warnings_up_under_one_event_name() -> None:
    stream = logged(log_level="debug")
    logging.getLogger("azure.core.pipeline").info("Request URL: ...")
    logging.getLogger("azure.servicebus").warning("link detached after %d s", 5)
    logging.getLogger("aiohttp.client").error("Unclosed client session")
    assert [(line["event"], line["logger"], line["level"], line["message"]) for line in lines(stream)] == [
        ("library.message", "azure.servicebus", "warning", "link detached after 5 s"),
        ("library.message", "aiohttp.client", "error", "Unclosed client session"),
    ]


def test_python_warnings_are_logged() -> None:
    stream = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        configure_logs(NOWHERE, stream)
        warnings.warn("old option", UserWarning, stacklevel=1)
    assert "old option" in lines(stream)[-1]["message"]


class Unwritable(io.StringIO):
    """A log on a full disk, until there is room again."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_that_cannot_be_written_ends_nothing(log_format: str) -> None:
    stream = Unwritable()
    configure_logs(worker_settings(log_format=log_format), stream)
    structlog.get_logger().warning("first")
    logging.getLogger("azure").warning("of a library")
    stream.is_full = False
    structlog.get_logger().warning("second")
    assert "second" in stream.getvalue()
    assert "first" not in stream.getvalue()


def test_configuring_again_replaces_the_stream() -> None:
    first, second = logged(), logged()
    logging.getLogger("azure").warning("once")
    structlog.get_logger().info("worker.started")
    assert first.getvalue() == ""
    assert len(lines(second)) == 2


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_leaves_by_any_way(log_format: str) -> None:
    stream = logged(log_format)
    log = structlog.get_logger()
    for secret in (*NOWHERE.secrets(), *map(Secret, SECRETS)):
        text = secret.reveal()
        log.info("plain.field", where=text)
        log.info("inside.text", where=f"could not open <{text}>")
        log.info("nested.field", where={"deep": [{"er": (text,)}]}, account_key=text)
        log.info("the.secret", where=secret, settings=NOWHERE, bound=[secret])
        log.info("by.name", blob_connection_string="something else", Authorization="SharedKey account:c2ln")
        logging.getLogger("azure.storage").warning("Authorization: %s", text)
        try:
            raise_with(text)
        except ValueError as error:
            log.exception("work.failed", error=error, also=repr(error))
            logging.getLogger("azure.storage").exception("request failed")
    text = stream.getvalue()
    assert "work.failed" in text
    assert "ValueError" in text
    for hidden in (*SECRETS, "something else", "c2ln"):
        assert hidden not in text


def raise_with(secret: str) -> None:
    local = secret  # a traceback that shows local variables would show it
    raise ValueError(f"401 for {local}")


def test_keys_that_no_setting_holds_are_found_by_the_look_of_them() -> None:
    stream = logged()
    structlog.get_logger().info(
        "foreign.key",
        text="DefaultEndpointsProtocol=https;AccountName=a;AccountKey=cGxhbnRlZA==;EndpointSuffix=core.windows.net",
        sas="https://a.blob.core.windows.net/c/b?sv=2021&sig=cGxhbnRlZA%3D%3D&se=2027",
        master="type%3dmaster%26ver%3d1.0%26sig%3dcGxhbnRlZA%3d%3d",
        header="Bearer cGxhbnRlZA.x.y",
    )
    text = stream.getvalue()
    assert "cGxhbnRlZA" not in text
    assert "AccountName=a;AccountKey=***;EndpointSuffix" in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_payload_leaves_by_any_way(log_format: str) -> None:
    stream = logged(log_format)
    event = NewEvent(event_id="e", event_type="t", data=PAYLOAD.encode(), metadata={"note": PAYLOAD})
    command = AppendCommand(command_id=CommandId("c"), brook=BrookKey("orders", "1"), expected="any", events=(event,))
    body = msgspec.json.encode(command).decode()
    log = structlog.get_logger()
    log.info("by.type", command=command, things=[event], raw=PAYLOAD.encode(), view=memoryview(PAYLOAD.encode()))
    log.info("by.name", body=body, data=PAYLOAD, payload=[PAYLOAD], metadata={"note": PAYLOAD}, events=[PAYLOAD])
    log.info("nested", what={"data": PAYLOAD, "documents": [{"data": PAYLOAD}]})
    log.info("encoded", text=f"answer: {body}")
    logging.getLogger("azure.cosmos").warning("Response content: %s", body)
    encoded = msgspec.json.decode(body)["events"][0]["data"]
    for hidden in (PAYLOAD, encoded):
        assert hidden not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 5


def test_counts_under_the_names_of_payloads_are_shown() -> None:
    stream = logged()
    structlog.get_logger().info("append.committed", events=3, data=None)
    assert lines(stream)[0]["events"] == 3


def test_text_nesting_and_length_are_bounded() -> None:
    stream = logged()
    nested: list[Any] = []
    nested.append(nested)
    structlog.get_logger().info(
        "too.much", text="x " * 100_000, many=list(range(100_000)), nested=nested, base64="QUJD" * 100
    )
    [line] = lines(stream)
    assert len(stream.getvalue()) < 5_000
    assert line["base64"] == "<400 characters>"
    assert line["text"].endswith("(200,000 characters)")
