"""Links to the service's own nodes: claims (`$cbs`) and the management of an entity (`…/$management`)."""

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.decode import decode
from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.message import (
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    CORRELATION_ID,
    MESSAGE_ID,
    PROPERTIES,
    REPLY_TO,
    Sections,
    list_fields,
    section,
    split,
)
from emulator.servicebus.amqp.types import AmqpError, DecodeError, Int, Raw, Symbol
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.front import operations
from emulator.servicebus.front.auth import Denied, path_of
from emulator.servicebus.front.links import SERVICE_CREDIT_DELAY_S, InboundLink, OutboundLink, address_of
from emulator.servicebus.front.management import OPERATIONS, Reply

if TYPE_CHECKING:
    from emulator.servicebus.front.channel import Channel

REPLIES_WAITING_MAX = 1_024
REPLIES_WAITING_BYTES_MAX = 16 * 1024 * 1024


class ReplyLink(OutboundLink):
    """Where a client gets its replies. They wait until its credit and its session's window let them through."""

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw, path: str) -> None:
        super().__init__(channel, attach, source, target)
        self.node = path.casefold()
        self._credit = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def channel_changed(self) -> None:
        """The client takes in more."""
        self._send_waiting()

    def close(self) -> None:
        """The client is gone, and waits for nothing any more."""
        super().close()
        self._waiting.clear()
        self._waiting_bytes = 0

    def on_flow(self, flow: p.Flow) -> None:
        """The client lets replies through."""
        self._credit = self.credit_of(flow)
        self._send_waiting()
        if flow.drain:
            leftover, self._credit = self._credit, 0
            self.drained(leftover)

    def reply(self, payload: bytes) -> None:
        """Send a reply, now or when there is credit."""
        if len(self._waiting) >= REPLIES_WAITING_MAX or self._waiting_bytes > REPLIES_WAITING_BYTES_MAX:
            error = AmqpError("amqp:resource-limit-exceeded", "Too many replies wait to be let through.")
            self.channel.connection.fail(error)
            return
        self._waiting.append(payload)
        self._waiting_bytes += len(payload)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._credit > 0 and not self.channel.is_blocked:
            self._credit -= 1
            payload = self._waiting.popleft()
            self._waiting_bytes -= len(payload)
            token = self.channel.connection.host.engine.context.new_token()
            self.transmit(token, payload, settled=True)


class Request(NamedTuple):
    """A request: its application properties, its decoded body, its message id still encoded, and where to reply."""

    properties: dict[Any, Any]
    body: Any
    message_id: bytes
    reply_to: str | None


class RequestLink(InboundLink):
    """Where a client sends requests."""

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw, path: str) -> None:
        super().__init__(channel, attach, source, target)
        self.node = path.casefold()

    def open(self) -> None:
        """Answer the attach. One widely used client needs no credit and opens faster without this frame."""
        self.confirm(max_message_size=self.size_max)
        self.channel.connection.host.later(SERVICE_CREDIT_DELAY_S, self.give_credit_if_idle)

    def on_delivery(self, delivery_id: int, payload: bytes, message_format: int, *, settled: bool) -> None:
        """A request."""
        del message_format
        try:
            request = _read_request(split(payload))
        except AmqpError as error:
            self.reject(delivery_id, error, settled=settled)
            return
        reply_link = self._reply_link(request.reply_to)
        if reply_link is None:
            nowhere = AmqpError("amqp:precondition-failed", "There is no link to reply on: attach a receiver first.")
            self.reject(delivery_id, nowhere, settled=settled)
            return
        self.accept(delivery_id, settled=settled)
        self.on_request(request, reply_link)

    @abstractmethod
    def on_request(self, request: Request, reply_link: ReplyLink) -> None:
        """Carry a request out and reply."""

    def _reply_link(self, reply_to: str | None) -> ReplyLink | None:
        """The link to the same node whose target is the reply address, else the first one to that node."""
        candidates = [
            link
            for link in self.channel.connection.all_links()
            if isinstance(link, ReplyLink) and link.node == self.node and link.is_open
        ]
        for link in candidates:
            if reply_to is not None and address_of(link.attach.target) == reply_to:
                return link
        return candidates[0] if candidates else None


def _read_request(sections: Sections) -> Request:
    place = sections.found.get(PROPERTIES)
    fields = [] if place is None else list_fields(sections.buffer, place[0], REPLY_TO + 1)
    properties = sections.value(APPLICATION_PROPERTIES)
    if not isinstance(properties, dict):
        raise DecodeError("a request has no application properties")
    reply_to = decode(fields[REPLY_TO])[0] if len(fields) > REPLY_TO else None
    return Request(
        properties,
        sections.value(AMQP_VALUE),
        fields[MESSAGE_ID] if fields else b"\x40",
        reply_to if isinstance(reply_to, str) else None,
    )


def _encode_reply(message_id: bytes, properties: dict[str, Any], body: Any) -> bytes:
    """A reply: its correlation id is the request's message id in the very same encoding."""
    fields = [b"\x40"] * CORRELATION_ID + [message_id]
    return (
        section(PROPERTIES, encode_list(fields))
        + section(APPLICATION_PROPERTIES, encode(properties))
        + section(AMQP_VALUE, encode(body))
    )


_ACCEPTED, _UNAUTHORIZED, _BAD_REQUEST = 202, 401, 400


class CbsLink(RequestLink):
    """Claims-based security: `put-token` with a shared access signature, or a token of Microsoft Entra ID."""

    def on_request(self, request: Request, reply_link: ReplyLink) -> None:
        """Check a token and remember what it allows."""
        audience = request.properties.get("name")
        entity = path_of(audience) if isinstance(audience, str) else ""

        def apply() -> None:
            status, description = self._put_token(request, audience)
            self._reply(reply_link, request, status, description)

        def refuse(error: ServiceBusError) -> None:
            self._reply(reply_link, request, error.status, error.description)

        self.lane.run(operations.PUT_TOKEN, {"entity": entity}, apply, refuse)

    def _put_token(self, request: Request, audience: object) -> tuple[int, str]:
        connection = self.channel.connection
        if request.properties.get("operation") != "put-token":
            return _BAD_REQUEST, "Only put-token is known here."
        if not isinstance(audience, str) or not isinstance(request.body, str):
            return _BAD_REQUEST, "put-token needs the property 'name' and a token as body, both strings."
        try:
            kind = request.properties.get("type")
            claim = connection.host.tokens.put_token(request.body, kind, audience, connection.host.wall_s())
        except Denied as denied:
            return _UNAUTHORIZED, str(denied)
        connection.claims.put(claim)
        return _ACCEPTED, "Accepted"

    def _reply(self, reply_link: ReplyLink, request: Request, status: int, description: str) -> None:
        properties = {"status-code": Int(status), "status-description": description}
        reply_link.reply(_encode_reply(request.message_id, properties, None))


class ManagementLink(RequestLink):
    """Requests about one entity."""

    def on_request(self, request: Request, reply_link: ReplyLink) -> None:
        """Carry out an operation by name."""
        operation = request.properties.get("operation")
        name = str(operation).removeprefix("com.microsoft:")
        handler = OPERATIONS.get(name)
        body = request.body if isinstance(request.body, dict) else {}
        path = self.node.removesuffix("/$management")

        def apply() -> None:
            if handler is None:
                refuse(ServiceBusError("amqp:not-implemented", f"The operation '{operation}' is not known here.", 501))
                return
            try:
                reply = handler(self.channel.connection.host.engine, path, body, self.channel.connection)
            except ServiceBusError as error:
                refuse(error)
            except AmqpError as error:
                refuse(ServiceBusError(error.condition, error.description, _BAD_REQUEST))
            else:
                self._reply(reply_link, request, reply)

        def refuse(error: ServiceBusError) -> None:
            self._reply(reply_link, request, Reply(error.status, error.description, {}, error.condition))

        facts = {"entity": path}
        if isinstance(body.get("session-id"), str):
            facts["session_id"] = body["session-id"]
        self.lane.run(name if handler is not None else operations.UNKNOWN, facts, apply, refuse)

    def _reply(self, reply_link: ReplyLink, request: Request, reply: Reply) -> None:
        properties: dict[str, Any] = {"statusCode": Int(reply.status), "statusDescription": reply.description}
        if reply.condition is not None:
            properties["errorCondition"] = Symbol(reply.condition)
        reply_link.reply(_encode_reply(request.message_id, properties, reply.body))
