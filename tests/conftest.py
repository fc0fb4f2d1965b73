"""What all tests share, and the stack that those of `tests/integration/stack` run on."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.support.azurite import azurite
from tests.support.logs_restored import logs_restored
from tests.support.quick_closing import close_at_once
from tests.support.stacks.choose import STACKS, Choice, StackError, choose
from tests.support.stacks.option import STACK
from worker.configuration import PREFIX


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The Azure SDKs run on asyncio only, so the product does too."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=STACKS,
        default=None,
        help="what tests/integration/stack runs on; default: docker where an engine answers, else embedded",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose once: the processes of pytest-xdist are told. The settings of a worker of one's own are not the tests'."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    try:
        config.stash[STACK] = Choice(*told["stack"]) if told else choose(config.getoption("--stack"))
    except StackError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist, before it starts."""
    node.workerinput["stack"] = tuple(node.config.stash[STACK])


def pytest_report_header(config: pytest.Config) -> str:
    chosen = config.stash[STACK]
    return f"stack: {chosen.name} ({chosen.why})"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Unless asked for another distribution: what shares a set-up stays together."""
    if config.getoption("dist") != "load":
        return None
    from tests.support.scheduling import TogetherScheduling  # noqa: PLC0415 - where pytest-xdist is used

    return TogetherScheduling(config, log)


@pytest.fixture(scope="session")
def chosen_stack(pytestconfig: pytest.Config) -> Choice:
    """The stack that `--stack` or the machine decides on."""
    return pytestconfig.stash[STACK]


@pytest.fixture(scope="session")
def azurite_connection_string() -> Iterator[str]:
    """One Azurite for all suites that ask it, each under names of its own: starting it takes seconds."""
    with azurite() as connection_string:
        yield connection_string


@pytest.fixture(scope="session", autouse=True)
def _clients_close_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        close_at_once(monkeypatch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> Iterator[None]:
    """As the worker logs them. Those of rich, structlog's default, take a fifth of a second each, with every local.

    Meanwhile nothing else goes on: on a busy machine a test that waits for what comes after some of them fails.
    """
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _logs_restored() -> Iterator[None]:
    with logs_restored():
        yield
