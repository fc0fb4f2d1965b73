"""What all benchmarks have in common: what they log, and how they run."""

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from worker.commands.interruption import InterruptedBySignalError, run_interruptible

_T = TypeVar("_T")


def log_warnings() -> None:
    """Log warnings and what is worse, to stderr: stdout is for what was measured."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


def run_to_end(function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
    """Run it. A signal ends the program in order: the workers that it has started must not be left behind."""
    try:
        return run_interruptible(function, *args)
    except InterruptedBySignalError as error:
        sys.exit(error.exit_code)
