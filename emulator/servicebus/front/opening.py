"""Attaching: which kind of link a client wants, from its role and the address it names."""

from typing import TYPE_CHECKING

from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.types import Raw
from emulator.servicebus.engine.errors import invalid_field, not_found
from emulator.servicebus.front.auth import path_of
from emulator.servicebus.front.entity_links import ReceiveLink, SendLink
from emulator.servicebus.front.links import Link, address_of, unauthorized
from emulator.servicebus.front.service_links import CbsLink, ManagementLink, ReplyLink

if TYPE_CHECKING:
    from emulator.servicebus.front.channel import Channel

CBS_NODE = "$cbs"
MANAGEMENT_SUFFIX = "/$management"


def open_link(channel: "Channel", attach: p.Attach, source: Raw, target: Raw) -> None:
    """Answer an attach: at once, or, for an acceptor of sessions, when there is one."""
    client_receives = attach.role is p.ROLE_RECEIVER
    address = address_of(attach.source if client_receives else attach.target)
    if address is None:
        link = Link(channel, attach, source, target)
        channel.on_attach(link)
        link.refuse(invalid_field("The link names no address."))
        return
    path = path_of(address)
    if path.casefold() == CBS_NODE:
        made: Link = (ReplyLink if client_receives else CbsLink)(channel, attach, source, target, path)
        channel.on_attach(made)
        made.open()
        return
    entity = path[: -len(MANAGEMENT_SUFFIX)] if path.casefold().endswith(MANAGEMENT_SUFFIX) else path
    if entity != path:
        made = (ReplyLink if client_receives else ManagementLink)(channel, attach, source, target, path)
    else:
        made = (ReceiveLink if client_receives else SendLink)(channel, attach, source, target, path)
    made.entity = entity
    channel.on_attach(made)
    if not entity:
        made.refuse(not_found(path))
    elif channel.connection.claims.cover(entity):
        made.open()
    else:
        made.refuse(unauthorized(entity))
