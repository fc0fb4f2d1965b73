"""What benchmarks log."""

import logging
import sys

import structlog


def log_warnings() -> None:
    """Log warnings and what is worse, to stderr: stdout is for what was measured."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
