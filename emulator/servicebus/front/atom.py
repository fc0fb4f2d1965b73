"""Atom entries with Service Bus descriptions in them, read and written by the field names of `entities`."""

from datetime import timedelta
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import msgspec

ATOM = "http://www.w3.org/2005/Atom"
SERVICE = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_MEGABYTE = 1_048_576
FOREVER = "P10675199DT2H48M5.4775807S"

# Field names here to element names there; what is a duration, a truth or a number is written as such.
_ELEMENTS = {
    "lock_duration_s": "LockDuration",
    "requires_session": "RequiresSession",
    "default_message_ttl_s": "DefaultMessageTimeToLive",
    "dead_lettering_on_message_expiration": "DeadLetteringOnMessageExpiration",
    "duplicate_detection_window_s": "DuplicateDetectionHistoryTimeWindow",
    "max_delivery_count": "MaxDeliveryCount",
    "requires_duplicate_detection": "RequiresDuplicateDetection",
    "message_count": "MessageCount",
    "size_bytes": "SizeInBytes",
    "max_size_bytes": "MaxSizeInMegabytes",
    "alias": "Alias",
    "messaging_sku": "MessagingSKU",
    "name": "Name",
    "namespace_type": "NamespaceType",
}
_NAMES = {element: name for name, element in _ELEMENTS.items()}
_ONLY_SHOWN = ("MessageCount", "SizeInBytes", "Name")
_REFUSED_UNLESS_EMPTY = ("ForwardTo", "ForwardDeadLetteredMessagesTo")
_COUNT_ELEMENTS = {
    "ActiveMessageCount": "active",
    "DeadLetterMessageCount": "dead_lettered",
    "ScheduledMessageCount": "scheduled",
    "TransferDeadLetterMessageCount": "",
    "TransferMessageCount": "",
}


class Entry(NamedTuple):
    """A description of one kind, with a title and fields."""

    kind: str
    title: str
    fields: dict[str, Any]


def _child(parent: ET.Element, space: str, name: str, text: str | None = None) -> ET.Element:
    child = ET.SubElement(parent, f"{{{space}}}{name}")
    child.text = text
    return child


def _text(name: str, value: Any) -> str:
    if name.endswith("_s"):
        return FOREVER if value is None else f"PT{value:g}S"
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "max_size_bytes":
        return str(max(value // _MEGABYTE, 1))
    return str(value)


def _element(described: Entry) -> ET.Element:
    made = ET.Element(f"{{{ATOM}}}entry")
    _child(made, ATOM, "title", described.title)
    content = _child(made, ATOM, "content")
    content.set("type", "application/xml")
    description = _child(content, SERVICE, described.kind)
    for name, value in described.fields.items():
        if name in _ELEMENTS and (name != "name" or described.kind == "NamespaceInfo"):
            _child(description, SERVICE, _ELEMENTS[name], _text(name, value))
    counts = described.fields.get("counts")
    if counts is not None:
        details = _child(description, SERVICE, "CountDetails")
        for element, name in _COUNT_ELEMENTS.items():
            _child(details, COUNTS, element, str(counts.get(name, 0)))
    if described.kind == "TopicDescription":
        _child(description, SERVICE, "SubscriptionCount", str(len(described.fields["subscriptions"])))
    return made


def _encoded(element: ET.Element) -> bytes:
    encoded: bytes = ET.tostring(element, encoding="utf-8", xml_declaration=True)
    return encoded


def entry(described: Entry) -> bytes:
    """One description."""
    return _encoded(_element(described))


def feed(entries: list[Entry]) -> bytes:
    """A page of descriptions; an empty one is how the service says that there is no such entity."""
    made = ET.Element(f"{{{ATOM}}}feed")
    _child(made, ATOM, "title", "Publicly Listed Services" if not entries else "Entities")
    for described in entries:
        made.append(_element(described))
    return _encoded(made)


def error(status: int, detail: str) -> bytes:
    """A refusal."""
    made = ET.Element("Error")
    ET.SubElement(made, "Code").text = str(status)
    ET.SubElement(made, "Detail").text = detail
    return _encoded(made)


def parse(body: bytes) -> tuple[str, dict[str, Any]]:
    """The kind and the fields of the description in an entry.

    Raises:
        ValueError: it is no such thing, or asks for what is not done here.
    """
    if b"<!DOCTYPE" in body:
        raise ValueError("a document type declaration is not accepted")
    try:
        root = ET.fromstring(body)  # noqa: S314 - no declarations (above), at most 64 KiB
    except ET.ParseError as malformed:
        raise ValueError(f"the body is no XML: {malformed}") from malformed
    description = root.find(f"{{{ATOM}}}content/*")
    if description is None:
        raise ValueError("the body is no Atom entry with a description as its content")
    fields: dict[str, Any] = {}
    for child in description:
        name, text = child.tag.rpartition("}")[2], (child.text or "").strip()
        if name == "DefaultRuleDescription":
            raise ValueError("rules are not taken in Atom: make the subscription in JSON, with its rules")
        if name in _REFUSED_UNLESS_EMPTY and text:
            raise ValueError(f"{name}: messages are not forwarded here; leave it empty")
        if name in _NAMES and name not in _ONLY_SHOWN and text:
            fields[_NAMES[name]] = _value(_NAMES[name], text)
    return description.tag.rpartition("}")[2], fields


def _value(name: str, text: str) -> Any:
    if name.endswith("_s"):
        seconds = msgspec.convert(text, timedelta, strict=False).total_seconds()
        return None if seconds >= timedelta(days=10_675_199).total_seconds() else seconds
    if text in ("true", "false"):
        return text == "true"
    if name == "max_size_bytes":
        return int(text) * _MEGABYTE
    return int(text) if text.isdecimal() else text


def dumps(value: Any) -> str:
    """JSON text."""
    return msgspec.json.encode(value).decode()
