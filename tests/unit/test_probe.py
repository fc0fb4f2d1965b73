"""The image's health check and the wait for the emulators: `python -m worker.probe`."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server

import pytest

from worker import probe

ROOT = Path(__file__).parents[2]


class Answers(ThreadingHTTPServer):
    """Answers each request with the next of its statuses, the last one for ever."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/healthz"


class Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        status = self.server.statuses[min(self.server.asked, len(self.server.statuses) - 1)]
        self.server.asked += 1
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(*statuses: int) -> Iterator[Answers]:
    with Answers(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """A URL where a connection is taken and nothing is ever answered."""
    with create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_success_is_told_by_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200) as server:
        assert probe.main([server.url]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("status", [302, 404, 503])
def test_another_answer_is_a_failure_that_is_told(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(status) as server:
        assert probe.main([server.url]) == 1
        assert server.asked == 1, "a redirection must not be followed"
    assert capsys.readouterr().err == f"{server.url} answers {status}\n"


def test_nobody_listening_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"
    assert probe.main([url]) == 1
    assert f"{url} does not answer (" in capsys.readouterr().err


def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(probe, "REQUEST_S", 0.2)
    with nobody() as url:
        assert probe.main([url]) == 1
    assert "timed out" in capsys.readouterr().err


def test_each_url_is_asked_until_it_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_EVERY_S", 0.01)
    with answering(200) as quick, answering(503, 503, 200) as slow:
        assert probe.main(["--within", "30", quick.url, slow.url]) == 0
        assert (quick.asked, slow.asked) == (1, 3)


def test_waiting_ends_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "_EVERY_S", 0.05)
    with answering(200) as up, answering(503) as down:
        assert probe.main(["--within", "1", up.url, down.url]) == 1
        assert down.asked > 1
    assert capsys.readouterr().err == f"{down.url} answers 503\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["ftp://host/"], ["http://"], ["http://host:0x/"], ["--within", "-1", "http://host/"], ["nonsense"]],
)
def test_wrong_usage_has_an_exit_code_of_its_own(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        probe.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m worker.probe" in capsys.readouterr().err


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(200) as server:
        assert probe.main([server.url]) == 0


def test_it_runs_as_a_command_and_imports_nothing_else() -> None:
    """A health check runs every few seconds: it must not load the worker."""
    with answering(200) as server:
        command = [sys.executable, "-X", "importtime", "-m", "worker.probe", server.url]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"azure", "aiohttp", "msgspec", "anyio", "structlog", "rich", "typer"}
