"""The producer's and reader's side: send a command and await its reply; read a brook."""

from brook_client.claims import ClaimUploads
from brook_client.client import BrookClient
from brook_client.connect import ConnectServiceBus, with_connection_string, with_credential
from brook_client.errors import (
    BrookClientError,
    ClaimUploadError,
    CommandTooLargeError,
    ReplyTimeoutError,
    ReplyUnavailableError,
    SendError,
)
from brook_client.messages import ReceivedReply

__all__ = [
    "BrookClient",
    "BrookClientError",
    "ClaimUploadError",
    "ClaimUploads",
    "CommandTooLargeError",
    "ConnectServiceBus",
    "ReceivedReply",
    "ReplyTimeoutError",
    "ReplyUnavailableError",
    "SendError",
    "with_connection_string",
    "with_credential",
]
