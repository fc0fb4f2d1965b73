"""How commands travel: as messages, or, where none holds their events, with a claim to a blob that does."""

from azure.servicebus import ServiceBusMessage

from brook_client.claims import ClaimUploads
from brook_client.messages import command_message
from schemas.commands import AppendCommand, ClaimedCommand, Command


class Packing:
    """Makes the messages of one client's commands.

    `reply_to` and `reply_session_id` say where the replies go, as far as anywhere. Without `claims` every command is
    one message, whatever its size.
    """

    def __init__(
        self,
        *,
        content_type: str,
        reply_to: str | None,
        reply_session_id: str | None,
        session_buckets: int | None,
        claims: ClaimUploads | None,
    ) -> None:
        self._content_type = content_type
        self._reply_to = reply_to
        self._reply_session_id = reply_session_id
        self._session_buckets = session_buckets
        self._claims = claims

    def message_if_small(self, command: Command) -> ServiceBusMessage | None:
        """The command's message; None where its events have to be uploaded. Raises what `command_message` does."""
        if self._claims is None or isinstance(command, ClaimedCommand):
            return self._message(command)
        # Seldom worth encoding: the data alone tells of most.
        if sum(len(event.data) for event in command.events) > self._claims.threshold_bytes:
            return None
        message = self._message(command)
        return message if sum(map(len, message.body)) <= self._claims.threshold_bytes else None

    async def uploaded(self, command: Command) -> ClaimedCommand:
        """The command with a claim in the place of its events. Raises ClaimUploadError: nothing was sent."""
        assert self._claims is not None, "without claims every command is sent as it is"
        assert isinstance(command, AppendCommand), "what has a claim is small"
        return await self._claims.upload(command)

    async def message(self, command: Command) -> ServiceBusMessage:
        """The command's message; its events are uploaded first, if need be. Raises what both of the others do."""
        small = self.message_if_small(command)
        return small if small is not None else self._message(await self.uploaded(command))

    def _message(self, command: Command) -> ServiceBusMessage:
        return command_message(
            command,
            content_type=self._content_type,
            reply_to=self._reply_to,
            reply_session_id=self._reply_session_id,
            session_buckets=self._session_buckets,
        )
