"""Which services the tests of `tests/integration/stack` run on: `--stack embedded|docker|azure`, or what is there."""

import os
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

StackName = Literal["embedded", "docker", "azure"]
STACKS: Final[tuple[StackName, ...]] = get_args(StackName)

AZURE_VARIABLES: Final = {
    "servicebus_connection_string": "BROOK_TEST_SERVICEBUS_CONNECTION_STRING",
    "cosmos_endpoint": "BROOK_TEST_COSMOS_ENDPOINT",
    "cosmos_key": "BROOK_TEST_COSMOS_KEY",
    "blob_connection_string": "BROOK_TEST_BLOB_CONNECTION_STRING",
}
"""Connections, and the variables that they come from."""

ENGINE_TIMEOUT_S: Final = 0.5

_SOCKET: Final = Path("/var/run/docker.sock")
_HINTS: Final = ("DOCKER_HOST", "DOCKER_CONTEXT", "TC_HOST", "TESTCONTAINERS_HOST_OVERRIDE")


class StackError(Exception):
    """The stack that was asked for cannot be used: one sentence that says what to change."""


class Choice(NamedTuple):
    """The stack that the tests run on, and why."""

    name: StackName
    why: str


def choose(asked: StackName | None) -> Choice:
    """Tell which stack to use, in less than a second.

    Raises StackError where the one that was asked for is not there.
    """
    match asked:
        case "embedded":
            return Choice("embedded", "asked for")
        case "azure":
            if missing := absent_variables():
                raise StackError(f"--stack azure: set {', '.join(missing)}, or choose another stack")
            return Choice("azure", "asked for")
        case "docker":
            if (problem := engine_problem()) is not None:
                raise StackError(f"--stack docker: {problem}; start a Docker engine, or choose another stack")
            return Choice("docker", "asked for")
        case None:
            problem = engine_problem()
            return Choice("docker", "a Docker engine answers") if problem is None else Choice("embedded", problem)


def why_not(name: StackName) -> str | None:
    """What keeps a stack from being used here; None where it could be."""
    match name:
        case "embedded":
            return None
        case "docker":
            return engine_problem()
        case "azure":
            missing = absent_variables()
            return f"not set: {', '.join(missing)}" if missing else None


def absent_variables() -> list[str]:
    """The variables of the Azure stack that are not set."""
    return [variable for variable in AZURE_VARIABLES.values() if not os.environ.get(variable)]


def engine_problem() -> str | None:
    """Why no Docker engine can be used, None where one answers. Bounded by a few times ENGINE_TIMEOUT_S."""
    if not _may_have_engine():
        return "no Docker engine: there is no socket, and neither DOCKER_HOST nor a context names another"
    # It takes a while, and most runs need none of it; docker comes without types.
    import docker.errors  # type: ignore[import-untyped]  # noqa: PLC0415
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

    try:
        client = DockerClient(timeout=ENGINE_TIMEOUT_S).client
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return f"no Docker engine answers ({_first_line(error)})"
    try:
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        return f"the Docker engine does not answer a ping ({_first_line(error)})"
    finally:
        client.close()
    return None


def _may_have_engine() -> bool:
    """Whether it is worth asking: a client alone is no engine."""
    home = Path(os.environ.get("HOME", "/"))
    named = any(os.environ.get(name) for name in _HINTS)
    configured = (home / ".docker" / "contexts").is_dir() or (home / ".testcontainers.properties").is_file()
    return named or configured or _SOCKET.is_socket() or os.name == "nt"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
