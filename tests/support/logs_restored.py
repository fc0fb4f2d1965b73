"""Logging as it was: a command run inside a test sets it up for the whole process, on a stream that is gone later."""

import contextlib
import logging
from collections.abc import Iterator

import structlog


@contextlib.contextmanager
def logs_restored() -> Iterator[None]:
    """At the end of the context the logs go where they went before, and warnings are warnings again."""
    was_configured, configuration = structlog.is_configured(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)
        root.setLevel(level)
        if was_configured:
            structlog.configure(**configuration)
        else:
            structlog.reset_defaults()
