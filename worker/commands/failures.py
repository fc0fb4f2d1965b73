"""Expected errors become lines for a person and an exit code; only bugs leave a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from brook_client.errors import BrookClientError
from schemas.keys import InvalidBrookKeyError
from worker.commands.interruption import InterruptedBySignalError
from worker.errors import WorkerError
from worker.locking.base import LeaseError
from worker.sessions.base import BrokerError
from worker.storage.base import StoreError
from worker.terminal import visible

EXPECTED = (BrokerError, BrookClientError, InvalidBrookKeyError, LeaseError, StoreError, WorkerError)

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CommandError(WorkerError):
    """A subcommand cannot do what it was asked to. Its message is the whole story."""


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

    def is_expected(error: BaseException) -> bool:
        return isinstance(error, expected) or (isinstance(error, OSError) and error.errno in _NO_ROOM)

    try:
        yield
    except InterruptedBySignalError as error:
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if not is_expected(error):
            raise
        _tell([error])
        raise typer.Exit(1) from error
    except expected as error:
        _tell([error])
        raise typer.Exit(_exit_code(error)) from error
    except BaseExceptionGroup as group:
        _, unexpected = group.split(is_expected)
        if unexpected is not None:
            raise
        leaves = list(_leaves(group))
        _tell(leaves)
        raise typer.Exit(max(map(_exit_code, leaves))) from group


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, WorkerError) else 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _tell(errors: list[BaseException]) -> None:
    for error in errors:
        if isinstance(error, OSError):
            typer.echo(f"error: what was asked for cannot be written: {error.strerror}; make room for it", err=True)
            drop_stdout()
            continue
        for line in str(error).splitlines() or [type(error).__name__]:
            typer.echo(f"error: {visible(line)}", err=True)


def drop_stdout() -> None:
    """Write what is left of stdout to nowhere: it would be tried again at the end, with a complaint on stderr."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
