"""What the client logs goes where the program's log goes, and never to its stdout."""

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from brook_client.log import log

PROGRAM = """
from brook_client.log import log

log.info("client.reply-unawaited", command_id="c0")
log.warning("client.send-failed", queue="commands", error="ServiceBusConnectionError")
try:
    raise KeyError("told")
except KeyError as error:
    log.error("client.listener-failed", command_id="c1", exc_info=error)
print("the program's own")
"""


@pytest.fixture
def unconfigured() -> Iterator[None]:
    was_configured, before = structlog.is_configured(), structlog.get_config()
    structlog.reset_defaults()
    yield
    if was_configured:
        structlog.configure(**before)


def test_a_program_that_sets_up_no_log_keeps_its_stdout() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], text=True, capture_output=True, check=True)
    assert done.stdout == "the program's own\n"
    told, failed, *rest = done.stderr.splitlines()
    assert told == "client.send-failed queue='commands' error='ServiceBusConnectionError'"
    assert failed == "client.listener-failed command_id='c1'"
    assert rest[-1] == "KeyError: 'told'"


@pytest.mark.usefixtures("unconfigured")
def test_the_standard_librarys_handlers_get_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="brook_client"):
        log.debug("client.sender-close-failed", queue="q")
    assert caplog.record_tuples == [("brook_client", logging.DEBUG, "client.sender-close-failed queue='q'")]


def test_where_structlog_is_set_up_it_gets_the_fields() -> None:
    with capture_logs() as logs:
        structlog.configure(processors=structlog.get_config()["processors"])  # as a program does
        log.warning("client.send-failed", queue="q", error="E")
    assert logs == [{"event": "client.send-failed", "queue": "q", "error": "E", "log_level": "warning"}]
