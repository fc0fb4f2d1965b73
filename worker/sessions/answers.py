"""The reply to one delivery as a message: where it goes, in what form and under which id.

All of it follows from the delivery and the reply, so that a command that comes again is answered as it was.
"""

import hashlib
from typing import Final

from schemas import ids
from schemas.codec import JSON, canonical_content_type, encode_reply
from schemas.keys import reply_message_id
from schemas.problems import Problem
from schemas.replies import Rejected, RejectionCode, Reply
from schemas.types import CommandId
from worker.sessions.base import DeadLetter, Delivery, OutgoingReply

Properties = dict[str, str | int | float]

_DESCRIPTION_LENGTH_MAX: Final = 1024


def asked_reply_session(delivery: Delivery) -> str | None:
    """The reply session that the sender asked for, if a message can have it: no broker looks at it before we do."""
    asked = delivery.reply_to_session_id
    return asked if asked and ids.fits(asked) else None


def reply_session(delivery: Delivery) -> str:
    """The sender's reply session, else the brook's; empty where neither is known and no reply can be routed."""
    return asked_reply_session(delivery) or delivery.session_id or ""


def outgoing(delivery: Delivery, reply: Reply, address: str | None, properties: Properties) -> OutgoingReply:
    """The reply as a message. Its id is fixed by the command's, so that the broker can drop a repetition.

    It is written as the command was, where that is a content type of ours, else as JSON.
    """
    content_type = canonical_content_type(delivery.content_type) or JSON
    body = encode_reply(reply, content_type)
    rejection = body if isinstance(reply, Rejected) else None
    known = reply.command_id or delivery.message_id or hashlib.sha256(delivery.body or b"").hexdigest()
    return OutgoingReply(
        address=address,
        body=body,
        content_type=content_type,
        message_id=reply_message_id(CommandId(known), asked_reply_session(delivery), rejection=rejection),
        correlation_id=delivery.message_id or known,
        session_id=reply_session(delivery),
        properties={"deliveryCount": delivery.delivery_count, **properties},
    )


def dead_letter(code: RejectionCode, problem: Problem) -> DeadLetter:
    """Put a delivery aside, with what is wrong for the operator, as far as a message's properties have room for it."""
    return DeadLetter(code, str(problem)[:_DESCRIPTION_LENGTH_MAX])
