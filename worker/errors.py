"""What the worker raises on purpose, for a person to read. No library error is meant to reach the operator."""

from collections.abc import Iterable


class WorkerError(Exception):
    """Base of the errors whose message is the whole story: a command prints it without a traceback."""

    exit_code = 1
    """What a command that ends by it ends with; docs/cli.md has the codes."""


class SettingsError(WorkerError):
    """One or more settings are wrong, missing or unknown.

    `problems` holds one line for each: the setting (as variable or TOML key), its value unless it may be a
    secret, and what to change.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class StartError(WorkerError):
    """A service does not answer, refuses or is not set up as it must be. Says which one and what to change."""
