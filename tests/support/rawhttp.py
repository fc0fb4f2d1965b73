"""HTTP by hand: what no client library would send."""

import asyncio
import base64
import hashlib
import hmac
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import msgspec

HEAD_END = b"\r\n\r\n"


class Answer(msgspec.Struct):
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def signed(key: str, method: str, resource_type: str, link: str, *, date: str | None = None) -> dict[str, str]:
    """The headers of a signed Cosmos DB request, of now unless a `date` is given."""
    date = formatdate(usegmt=True) if date is None else date
    text = f"{method.lower()}\n{resource_type}\n{link}\n{date.lower()}\n\n"
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    token = f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}"
    return {"x-ms-date": date, "authorization": quote(token, safe="-_.!~*'()")}


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + HEAD_END + body


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer | None:
    """The next response; None where the server closed the connection instead."""
    try:
        head = await reader.readuntil(HEAD_END)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().partition(": ")[::2] for line in lines if line)
    length = 0 if head_only else int(headers.get("content-length", "0"))
    return Answer(int(first.split(" ")[1]), headers, await reader.readexactly(length))


async def exchange(port: int, octets: bytes, *, timeout_s: float = 10.0) -> Answer | None:
    """Send something on a connection of its own and read what comes back; None where nothing does."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(octets)
            await writer.drain()
            return await read_answer(reader, head_only=octets.startswith(b"HEAD"))
        except ConnectionError:
            return None
        finally:
            writer.close()
