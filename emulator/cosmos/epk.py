"""Effective partition keys: where a partition key lies in the key space that physical partitions share.

The clients compute the same strings (`azure.cosmos.partition_key`) and ask for ranges of them, so they must agree to
the bit: version 2 is MurmurHash3 x64 128, version 1 MurmurHash3 x86 32 followed by the encoded components, and a
hierarchical key the concatenation of one version-2 hash for each level.
"""

import struct
from functools import lru_cache
from itertools import pairwise
from typing import Final

_MASK_32: Final = 0xFFFFFFFF
_MASK_64: Final = 0xFFFFFFFFFFFFFFFF

_UNDEFINED: Final = 0x0
_NULL: Final = 0x1
_FALSE: Final = 0x2
_TRUE: Final = 0x3
_NUMBER: Final = 0x5
_STRING: Final = 0x8

_V1_STRING_CHARACTERS: Final = 100
_V1_STRING_BYTES: Final = 100

Component = str | float | tuple[str, bool] | tuple[()] | None
"""One level of a key: a string, a number, `("bool", value)`, None for null and `()` for undefined."""

Key = tuple[Component, ...]

MIN: Final = ""
MAX: Final = "FF"


def _rotate_64(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK_64


def _mix_64(value: int) -> int:
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & _MASK_64
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK_64
    return value ^ (value >> 33)


def murmur3_128(data: bytes) -> tuple[int, int]:
    """MurmurHash3 x64 128 with seed 0 as (low, high) 64-bit halves."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    low = high = 0
    whole = len(data) & ~15
    for offset in range(0, whole, 16):
        k1, k2 = struct.unpack_from("<QQ", data, offset)
        low ^= (_rotate_64((k1 * c1) & _MASK_64, 31) * c2) & _MASK_64
        low = ((_rotate_64(low, 27) + high) * 5 + 0x52DCE729) & _MASK_64
        high ^= (_rotate_64((k2 * c2) & _MASK_64, 33) * c1) & _MASK_64
        high = ((_rotate_64(high, 31) + low) * 5 + 0x38495AB5) & _MASK_64
    tail = data[whole:]
    if len(tail) > 8:  # noqa: PLR2004 - the second half of a 16-byte block
        k2 = int.from_bytes(tail[8:], "little")
        high ^= (_rotate_64((k2 * c2) & _MASK_64, 33) * c1) & _MASK_64
    if tail:
        k1 = int.from_bytes(tail[:8], "little")
        low ^= (_rotate_64((k1 * c1) & _MASK_64, 31) * c2) & _MASK_64
    low ^= len(data)
    high ^= len(data)
    low = (low + high) & _MASK_64
    high = (high + low) & _MASK_64
    low, high = _mix_64(low), _mix_64(high)
    low = (low + high) & _MASK_64
    return low, (high + low) & _MASK_64


def murmur3_32(data: bytes) -> int:
    """MurmurHash3 x86 32 with seed 0."""
    c1, c2 = 0xCC9E2D51, 0x1B873593
    value = 0
    whole = len(data) & ~3
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        block = (block * c1) & _MASK_32  # noqa: PLW2901 - the name of the reference implementation
        block = ((block << 15) | (block >> 17)) & _MASK_32  # noqa: PLW2901
        value ^= (block * c2) & _MASK_32
        value = ((value << 13) | (value >> 19)) & _MASK_32
        value = (value * 5 + 0xE6546B64) & _MASK_32
    if len(data) > whole:
        block = (int.from_bytes(data[whole:], "little") * c1) & _MASK_32
        block = ((block << 15) | (block >> 17)) & _MASK_32
        value ^= (block * c2) & _MASK_32
    value ^= len(data)
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK_32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK_32
    return value ^ (value >> 16)


def _hashed_form(component: Component, suffix: bytes) -> bytes:
    """The bytes of one component that go into the hash."""
    if component is None:
        return bytes([_NULL])
    if isinstance(component, str):
        return bytes([_STRING]) + component.encode("utf-8", "surrogatepass") + suffix
    if isinstance(component, tuple):
        if not component:
            return bytes([_UNDEFINED])
        return bytes([_TRUE if component[1] else _FALSE])
    return bytes([_NUMBER]) + struct.pack("<d", component)


def _hash_v2(data: bytes) -> str:
    low, high = murmur3_128(data)
    octets = bytearray(high.to_bytes(8, "big") + low.to_bytes(8, "big"))
    octets[0] &= 0x3F  # the upper end of the key space is "FF"
    return octets.hex().upper()


def _encoded_number_v1(value: float) -> bytes:
    """A double as bytes that sort like it: 8 bits, then groups of 7 with a continuation bit."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    payload = (~bits + 1) & _MASK_64 if bits >> 63 else bits ^ (1 << 63)
    octets = bytearray([_NUMBER, payload >> 56])
    payload = (payload << 8) & _MASK_64
    pending = 0
    first = True
    while payload:
        if not first:
            octets.append(pending)
        first = False
        pending = (payload >> 56) | 1
        payload = (payload << 7) & _MASK_64
    octets.append(pending & 0xFE)
    return bytes(octets)


def _encoded_v1(component: Component) -> bytes:
    """The bytes of one component that follow the hash of a version-1 key."""
    if isinstance(component, str):
        octets = component.encode("utf-8", "surrogatepass")
        short = len(octets) <= _V1_STRING_BYTES
        body = octets if short else octets[: _V1_STRING_BYTES + 1]
        return bytes([_STRING]) + bytes((octet + 1) & 0xFF for octet in body) + (b"\0" if short else b"")
    if isinstance(component, float):
        return _encoded_number_v1(component)
    return _hashed_form(component, b"")


def _v1(component: Component) -> str:
    if isinstance(component, str):
        component = component[:_V1_STRING_CHARACTERS]
    digest = murmur3_32(_hashed_form(component, b"\0"))
    return (_encoded_number_v1(float(digest)) + _encoded_v1(component)).hex().upper()


@lru_cache(maxsize=4096)
def effective_partition_key(key: Key, kind: str, version: int) -> str:
    """The place of `key` as the clients compute it; of a prefix of a hierarchical key, where its range begins."""
    if not key:
        return MIN
    if kind == "MultiHash":
        return "".join(_hash_v2(_hashed_form(component, b"\xff")) for component in key)
    if version == 1:
        return _v1(key[0])
    return _hash_v2(b"".join(_hashed_form(component, b"\xff") for component in key))


def split_ranges(count: int, kind: str, version: int) -> list[tuple[str, str]]:
    """The key space cut into `count` ranges of about the same number of keys each."""
    if kind != "MultiHash" and version == 1:
        # A version-1 key begins with its 32-bit hash as an encoded double.
        bounds = [_encoded_number_v1(float(2**32 * cut // count)).hex().upper() for cut in range(1, count)]
    else:
        bounds = [f"{(0x40 << 120) * cut // count:032X}" for cut in range(1, count)]
    edges = [MIN, *bounds, MAX]
    return list(pairwise(edges))
