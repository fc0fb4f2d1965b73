"""Expected errors become lines for a person and an exit code; only bugs leave a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from brook_client.errors import BrookClientError
from schemas.keys import InvalidBrookKeyError
from worker.commands.interruption import InterruptedBySignalError
from worker.errors import WorkerError
from worker.locking.base import LeaseError
from worker.sessions.base import BrokerError
from worker.storage.base import StoreError

EXPECTED = (BrokerError, BrookClientError, InvalidBrookKeyError, LeaseError, StoreError, WorkerError)


class CommandError(WorkerError):
    """A subcommand cannot do what it was asked to. Its message is the whole story."""

    exit_code = 1


class UsageError(CommandError):
    """The options do not fit each other, in a way that the command line itself does not see."""

    exit_code = 2


class PartlyDoneError(CommandError):
    """Some of what was asked for was not done, and was told with its reason before; the rest was done."""

    exit_code = 3


@contextmanager
def reported(*further: type[Exception]) -> Iterator[None]:
    """Turn expected errors, and those of the types `further`, into lines on stderr and an exit code.

    Several errors that came together (an exception group) are all told, unless a bug is among them. The code is 1
    unless the error has another; after a signal it is 128 and the signal's number.
    """
    expected: tuple[type[Exception], ...] = (*EXPECTED, *further)
    try:
        yield
    except InterruptedBySignalError as error:
        raise typer.Exit(error.exit_code) from error
    except expected as error:
        _tell([error])
        raise typer.Exit(_exit_code(error)) from error
    except BaseExceptionGroup as group:
        _, unexpected = group.split(expected)
        if unexpected is not None:
            raise
        leaves = list(_leaves(group))
        _tell(leaves)
        raise typer.Exit(max(map(_exit_code, leaves))) from group


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, CommandError) else 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _tell(errors: list[BaseException]) -> None:
    for error in errors:
        for line in str(error).splitlines() or [type(error).__name__]:
            typer.echo(f"error: {line}", err=True)
