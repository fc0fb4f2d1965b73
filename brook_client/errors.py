"""What the client raises. No azure exception leaves it; each message says what to do next."""

from schemas.types import CommandId


class BrookClientError(Exception):
    """Base of everything that the client raises on purpose."""


class SendError(BrookClientError):
    """The queue did not confirm that it took the commands: they may or may not take effect.

    Sending them again under the same command ids is safe. `is_refusal` tells that it will not help before somebody has
    changed something: the name of the queue, its state, the credentials.
    """

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class CommandTooLargeError(BrookClientError):
    """One command is larger than a message may be. Nothing of it was sent."""

    def __init__(self, command_id: CommandId, *, message_bytes_max: int) -> None:
        super().__init__(
            f"command {command_id!r} is larger than the {message_bytes_max:,} bytes that a message of this queue may"
            " have; give the client `claims`, or split its events over several commands"
        )
        self.command_id = command_id
        self.message_bytes_max = message_bytes_max


class ClaimUploadError(BrookClientError):
    """The events of a command were not uploaded. Nothing of it was sent; trying again is safe."""


class ReplyTimeoutError(BrookClientError, TimeoutError):
    """No reply came in time. The command may still take effect; sending it again under its id is safe."""

    def __init__(self, command_id: CommandId, *, waited_s: float, reason: str | None = None) -> None:
        because = f" ({reason})" if reason else ""
        super().__init__(
            f"no reply to command {command_id!r} within {waited_s:g} s{because}: it may still take effect;"
            " sending it again under the same command id is safe and brings the same reply"
        )
        self.command_id = command_id
        self.waited_s = waited_s


class ReplyUnavailableError(BrookClientError):
    """Replies cannot be read for a reason that waiting does not cure. Sent commands may still take effect."""
