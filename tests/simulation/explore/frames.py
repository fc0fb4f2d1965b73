"""Reads everything that a suspended coroutine will ever act on, in one form for all that will act alike.

A coroutine cannot be copied, but it can be read: its code, the instruction that it waits at, its local variables
and the values on its stack (among them the iterators of its loops and whatever it awaits, which is read in turn).
Nothing else of it survives a suspension. What is not known here raises, so that a state is never read in part.

The garbage collector has to see every object that a frame holds, so it is asked for them. It leaves out empty
places: the names of the bound variables are read as well, and the stack's depth is fixed by the instruction.
"""

import enum
import gc
import types
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec

from worker.protocol.prepare import PreparedCommand

ETAG_MARK: Final = '"~'
"""How the names of states begin, so that they are told from all other texts."""

_ITERATORS: Final[tuple[type, ...]] = (
    type(iter(())),
    type(iter([])),
    type(iter(range(0))),
    type(iter({})),
    type(iter({}.items())),
    type(iter({}.values())),
    type(iter(set())),
    enumerate,
    zip,
    map,
    reversed,
)
_SUSPENDED: Final = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)
_NAMED: Final = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, type, types.ModuleType)


_REPORTED: Final = frozenset({("_Run", "plans"), ("_Run", "batches"), ("BrookWriter", "charge_ru")})
"""Attributes that are counted up for logs and replies' properties: no decision looks at them, so none is read."""


_OURS: Final = ("worker.handlers.", "worker.guess", "tests.simulation.explore.")
"""Where the objects come from whose state is that of their attributes."""


class UnreadableError(TypeError):
    """A frame holds something whose state is not known here: say in `frames` how it is read."""


class Reading:
    """One reading: a key that is equal for equal states, and the names of states in it, in order.

    Names are replaced by their number in that order: only whether two are the same matters to who holds them.
    Objects that can change are numbered too, so that one object held twice is not taken for two.
    """

    def __init__(self, root: object, shared: tuple[type, ...]) -> None:
        self._shared = shared
        self._numbers: dict[int, int] = {}
        self._etags: dict[str, int] = {}
        self._alive: list[object] = []
        self.key = tuple(self._read(root))

    @property
    def etags(self) -> tuple[str, ...]:
        """The names of states, by their numbers in the key."""
        return tuple(self._etags)

    def _read(self, value: Any) -> Iterator[Any]:  # noqa: C901, PLR0912 - one case for each kind of value
        match value:
            case None | bool() | int() | float() | bytes() | enum.Enum():
                yield (type(value).__name__, value)
            case str():
                if value.startswith(ETAG_MARK):
                    yield ("etag", self._etags.setdefault(value, len(self._etags)))
                else:
                    yield value
            case _ if isinstance(value, self._shared):
                yield ("shared", type(value).__qualname__)
            case PreparedCommand():
                yield ("command", value.command_id, value.digest, value.withheld)
            case tuple() | frozenset():
                items = value if isinstance(value, tuple) else sorted(value)
                yield from self._all(type(value).__name__, items)
            case msgspec.Struct():
                yield from self._all(
                    type(value).__qualname__, [getattr(value, name) for name in value.__struct_fields__]
                )
            case range():
                yield ("range", value.start, value.stop, value.step)
            case types.MethodType():
                yield ("method", value.__func__.__qualname__)
                yield from self._read(value.__self__)
            case partial():
                yield from self._all("partial", [value.func, *value.args, value.keywords])
            case _ if isinstance(value, _NAMED):
                yield ("named", getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
            case _:
                yield from self._read_once(value)

    def _read_once(self, value: Any) -> Iterator[Any]:
        """An object that can change: at the second meeting only its number."""
        if id(value) in self._numbers:
            yield ("again", self._numbers[id(value)])
            return
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)  # no other object gets its id while this goes on
        match value:
            case list() | deque():
                yield from self._all(type(value).__name__, value)
            case dict():
                yield from self._all("dict", [part for item in value.items() for part in item])
            case types.CellType():
                yield from self._all("cell", gc.get_referents(value))
            case set():
                yield from self._all("set", sorted(value))
            case _ if isinstance(value, _SUSPENDED):
                yield from self._read_frame(value)
            case _ if isinstance(value, _ITERATORS):
                yield from self._all(type(value).__name__, value.__reduce__()[1:])
            case _ if type(value).__module__.startswith(_OURS):
                kind = type(value).__qualname__
                yield kind
                yield from self._read({name: one for name, one in vars(value).items() if (kind, name) not in _REPORTED})
            case _:
                raise UnreadableError(f"{type(value)}: {value!r}")

    def _read_frame(self, suspended: Any) -> Iterator[Any]:
        frame = getattr(suspended, "cr_frame", None) or getattr(suspended, "gi_frame", None)
        if frame is None:
            raise UnreadableError(f"{suspended!r} has ended")
        bound = frame.f_locals
        code = frame.f_code
        held = [
            one
            for one in gc.get_referents(suspended)
            if one is not bound and one is not frame and one is not code and getattr(one, "__code__", None) is not code
        ]
        yield (suspended.__qualname__, frame.f_lasti, tuple(bound))
        yield from self._all("frame", held)

    def _all(self, kind: str, values: Any) -> Iterator[Any]:
        parts = list(values)
        yield (kind, len(parts))
        for part in parts:
            yield from self._read(part)
