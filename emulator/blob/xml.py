"""The XML of Blob Storage: elements out, block lists in."""

import re
from typing import Final, cast, get_args
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from emulator.blob.blocks import BlockChoice, Origin
from emulator.blob.errors import BlobError

XML_TYPE: Final = "application/xml"
# https://www.w3.org/TR/xml/#charsets: what a document cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A parser turns a carriage return into a line feed unless it is escaped.
_ENTITIES = {"\r": "&#13;"}


def element(name: str, text: str) -> str:
    """One element with escaped text; characters that XML cannot hold become U+FFFD."""
    return f"<{name}>{escape(_FORBIDDEN.sub(chr(0xFFFD), text), _ENTITIES)}</{name}>"


def name_element(name: str) -> str:
    """The name of a blob in a listing, percent-encoded and marked so where XML cannot hold it."""
    if _FORBIDDEN.search(name):
        return f'<Name Encoded="true">{quote(name, safe="")}</Name>'
    return element("Name", name)


def optional_element(name: str, text: str) -> str:
    """An element, or nothing for an empty text."""
    return element(name, text) if text else ""


def parse_block_list(data: bytes) -> list[BlockChoice]:
    """The entries of a Put Block List body in order; 400 InvalidXmlDocument where it is none."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise BlobError("InvalidXmlDocument")  # entities could grow without bound
    try:
        root = ET.fromstring(data)  # noqa: S314 - no document type gets here, so nothing expands
    except (ET.ParseError, ValueError, LookupError):
        raise BlobError("InvalidXmlDocument") from None
    if root.tag != "BlockList":
        raise BlobError("InvalidXmlDocument")
    choices = []
    for child in root:
        if child.tag not in get_args(Origin):
            raise BlobError("InvalidXmlDocument")
        choices.append(BlockChoice(cast("Origin", child.tag), (child.text or "").strip()))
    return choices
