"""Expected errors become lines for a person and an exit code; only bugs leave a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from brook_client.errors import BrookClientError
from schemas.keys import InvalidBrookKeyError
from worker.errors import WorkerError
from worker.locking.base import LeaseError
from worker.storage.base import StoreError

EXPECTED = (BrookClientError, InvalidBrookKeyError, LeaseError, StoreError, WorkerError)


class CommandError(WorkerError):
    """A subcommand cannot do what it was asked to. Its message is the whole story."""


@contextmanager
def reported(*further: type[Exception]) -> Iterator[None]:
    """Turn expected errors, and those of the types `further`, into lines on stderr and exit code 1.

    Several errors that came together (an exception group) are all told, unless a bug is among them.
    """
    expected: tuple[type[Exception], ...] = (*EXPECTED, *further)
    try:
        yield
    except expected as error:
        _tell([error])
        raise typer.Exit(1) from error
    except BaseExceptionGroup as group:
        _, unexpected = group.split(expected)
        if unexpected is not None:
            raise
        _tell(list(_leaves(group)))
        raise typer.Exit(1) from group


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
