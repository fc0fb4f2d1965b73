"""Request charges, modelled on the documented points. docs/emulator-cosmos.md has the table.

Between the points the charge is linear in the size; beyond the last one it goes on with the last slope.
"""

from bisect import bisect_right
from typing import Final

_READ_POINTS: Final = ((1.0, 1.0), (16.0, 1.67), (64.0, 4.8), (1024.0, 146.0))
_WRITE_POINTS: Final = ((1.0, 4.95), (16.0, 9.5), (64.0, 22.7), (1024.0, 625.0))
"""(KB, RU), measured and documented with little indexing."""

INDEXED_PROPERTY: Final = 0.08
"""RU for each indexed property of a written item."""

REPLACE_FACTOR: Final = 2.0
"""A replace, an upsert of an existing item and a patch remove the old version as well."""

MISS: Final = 1.0
"""A read or a write that found nothing, or was refused by a precondition or an existing id."""

METADATA_READ: Final = 1.0
METADATA_WRITE: Final = 4.95
QUERY_BASE: Final = 2.3
_QUERY_ROW: Final = 0.03
_QUERY_SCANNED: Final = 0.008


def _interpolate(points: tuple[tuple[float, float], ...], size_bytes: int) -> float:
    size_kb = size_bytes / 1024
    if size_kb <= points[0][0]:
        return points[0][1]
    upper = min(bisect_right(points, (size_kb, 0.0)), len(points) - 1)
    (size_low, charge_low), (size_high, charge_high) = points[upper - 1], points[upper]
    return charge_low + (charge_high - charge_low) * (size_kb - size_low) / (size_high - size_low)


def read(size_bytes: int) -> float:
    """A point read."""
    return round(_interpolate(_READ_POINTS, size_bytes), 2)


def write(size_bytes: int, indexed_properties: int) -> float:
    """A create or a delete."""
    return round(_interpolate(_WRITE_POINTS, size_bytes) + INDEXED_PROPERTY * indexed_properties, 2)


def replace(size_bytes: int, indexed_properties: int) -> float:
    """A replace, a patch, or an upsert of an item that is there."""
    return round(REPLACE_FACTOR * write(size_bytes, indexed_properties), 2)


def query(rows: int, rows_bytes: int, scanned: int) -> float:
    """One page: `rows` returned, `scanned` loaded and not returned."""
    loaded = _interpolate(_READ_POINTS, rows_bytes) - _READ_POINTS[0][1]
    return round(QUERY_BASE + loaded + _QUERY_ROW * rows + _QUERY_SCANNED * scanned, 2)
