"""Where settings come from: `BROOK_WORKER_*` variables over an optional TOML file. Every mistake is one line."""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.inspect import (
    BoolType,
    CustomType,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    Type,
    UnionType,
    VarTupleType,
)

from schemas.problems import is_encodable
from worker.errors import SettingsError
from worker.redaction import HIDDEN, Secret, redact
from worker.settings import Settings
from worker.settings_checks import contradictions

PREFIX: Final = "BROOK_WORKER_"
FILE_VARIABLE: Final = "BROOK_WORKER_CONFIG"

_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}
_SHOWN_LENGTH_MAX: Final = 60
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/]{40,}")
"""A key that somebody put into the wrong setting must not be shown either."""


class _Given(msgspec.Struct, frozen=True):
    """A value as somebody wrote it. `source` is how the person who wrote it knows it: variable or TOML key."""

    source: str
    value: Any
    is_text: bool
    """True from the environment, where numbers, flags and lists are written as text."""


class _Unchecked(Settings, frozen=True, kw_only=True):
    """What could be read of the settings, with defaults for the rest: to look at it all together."""

    def __post_init__(self) -> None:
        """Do not check them: whoever makes this does."""


def load_settings(*, environ: Mapping[str, str] | None = None, config_file: str | Path | None = None) -> Settings:
    """Read the settings. The environment goes over the file, the file over the defaults.

    `config_file` goes over `BROOK_WORKER_CONFIG`. Raises SettingsError with one line for each setting that is
    wrong, missing or unknown. Values of secrets, and of names that are not known, are never shown.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    given: dict[str, _Given] = {}
    path = config_file or environ.get(FILE_VARIABLE)
    if path:
        given |= _from_file(Path(path), "--config" if config_file else FILE_VARIABLE, problems)
    given |= _from_environment(environ, problems)
    values = _converted(given, problems)
    missing = [field.name for field in _FIELDS.values() if field.required and field.name not in given]
    file = path or f"the file that --config or {FILE_VARIABLE} names"
    problems += [f"{variable(name)}: is missing; set it, or {name} in {file}" for name in missing]
    if "reply_topic" in given and values.get("reply_topic", "") is not None:
        values.setdefault("reply_queue", None)
    wrong = frozenset({*missing, *(given.keys() - values.keys())})
    required = {field.name: "" for field in _FIELDS.values() if field.required}
    unlike = contradictions(_Unchecked(**(required | values)), wrong)
    problems += [f"{_source(name, given)}: {text}" for name, text in unlike]
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def allowed(name: str) -> str:
    """What a setting may be, in words."""
    return _in_words(msgspec.inspect.type_info(_FIELDS[name].type))


def _from_file(path: Path, source: str, problems: list[str]) -> dict[str, _Given]:
    """What the file that `source` names sets. One that cannot be read explains all that is missing: SettingsError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"{source}: cannot read {str(path)!r} ({error.strerror}); give the path of a TOML file"
        raise SettingsError([text]) from error
    except ValueError as error:  # malformed TOML, or not UTF-8
        raise SettingsError([f"{path}: is not TOML ({redact(str(error))}); mend that line"]) from error
    given = {}
    for key, value in table.items():
        if key in _FIELDS:
            given[key] = _Given(f"{key} in {path}", value, is_text=False)
        else:
            problems.append(f"{key} in {path}: is not a setting; {_suggestion(key, list(_FIELDS))}")
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    names = {variable(name): name for name in _FIELDS}
    given = {}
    for key in sorted(environ):
        if key in names:
            given[names[key]] = _Given(key, environ[key], is_text=True)
        elif key.upper().startswith(PREFIX) and key != FILE_VARIABLE:
            # Compared without the prefix, which would make any two names look alike.
            close = _suggestion(key.upper().removeprefix(PREFIX), [*map(str.upper, _FIELDS), "CONFIG"], PREFIX)
            problems.append(f"{key}: is not a setting; {close}")
    return given


def _suggestion(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else "remove it; docs/settings.md lists what there is"


def _converted(given: Mapping[str, _Given], problems: list[str]) -> dict[str, Any]:
    values = {}
    for name, entry in given.items():
        field = _FIELDS[name]
        kind = msgspec.inspect.type_info(field.type)
        value = _from_text(kind, entry.value) if entry.is_text else entry.value
        if isinstance(entry.value, str) and not is_encodable(entry.value):
            problems.append(f"{entry.source}: has bytes in it that are not UTF-8; use {_in_words(kind)}")
            continue
        try:
            values[name] = msgspec.convert(value, field.type, strict=not entry.is_text, dec_hook=_secret)
            if isinstance(values[name], float) and not math.isfinite(values[name]):
                raise msgspec.ValidationError  # noqa: TRY301 - the same line as for every other wrong value
        except msgspec.ValidationError:
            problems.append(f"{entry.source}: {_wrong(kind, entry.value)}")
    return values


def _from_text(kind: Type, text: str) -> Any:
    """What the text in a variable stands for: empty is none where a setting may be none, commas part a list."""
    kind = _plain(kind)
    if isinstance(kind, UnionType) and not text.strip():
        return None
    if isinstance(kind, VarTupleType):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if isinstance(kind, CustomType) else text.strip()


def _secret(kind: type, value: Any) -> Secret:
    if kind is Secret and isinstance(value, str) and value.strip():
        return Secret(value.strip())
    raise ValueError("is no secret")


def _wrong(kind: Type, value: Any) -> str:
    if isinstance(value, str) and not value.strip():
        return f"is empty; use {_in_words(kind)}"
    if _is_secret(kind):
        return f"is not text; use {_in_words(kind)}"
    shown = value if isinstance(value, str) else repr(value)
    shown = HIDDEN if _LIKE_A_KEY.search(shown) else redact(shown)
    shown = shown if len(shown) <= _SHOWN_LENGTH_MAX else f"{shown[:_SHOWN_LENGTH_MAX]}…"
    return f"is {shown!r}; use {_in_words(kind)}"


def _source(name: str, given: Mapping[str, _Given]) -> str:
    """A setting's name as its writer knows it."""
    return given[name].source if name in given else variable(name)


def _is_secret(kind: Type) -> bool:
    kind = _plain(kind)
    return isinstance(kind, CustomType) or (isinstance(kind, UnionType) and any(map(_is_secret, kind.types)))


def _plain(kind: Type) -> Type:
    return kind.type if isinstance(kind, Metadata) else kind


def _in_words(kind: Type) -> str:
    if isinstance(kind, Metadata):
        title = (kind.extra_json_schema or {}).get("title")
        return str(title) if title else _in_words(kind.type)
    match kind:
        case CustomType():
            return "the secret as the portal shows it"
        case BoolType():
            return "true or false"
        case LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case IntType() | FloatType():
            return _range(kind)
        case VarTupleType(item_type=item):
            return f"a list, each {_in_words(item)}"
        case UnionType(types=types):
            return " or ".join(_union_words(types))
        case _:
            return "text"


def _union_words(types: tuple[Type, ...]) -> Iterator[str]:
    for kind in types:
        yield "nothing" if isinstance(kind, msgspec.inspect.NoneType) else _in_words(kind)


def _range(kind: IntType | FloatType) -> str:
    noun = "a whole number" if isinstance(kind, IntType) else "a number"
    low = f"from {kind.ge:,} to" if kind.ge is not None else f"above {kind.gt:,} and at most"
    return f"{noun} {low} {kind.le:,}"
