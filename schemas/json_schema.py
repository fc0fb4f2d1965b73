"""JSON Schema (draft 2020-12) of what travels, made from the types that the codec reads.

What the codec and the guards refuse whatever the settings are is refused here too, as far as JSON Schema can say it;
what they take, is taken. `tests/unit/test_schemas_json_schema.py` holds both to that.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final, get_args

import msgspec

from schemas.claims import BLOB_NAME, BLOB_NAME_LENGTH_MAX, PAYLOAD_DIGEST, SHA_256
from schemas.commands import SCHEMA_VERSION, Command
from schemas.events import RecordedEvent
from schemas.guards import RFC_3339
from schemas.keys import BROOK_KEY_BYTES_MAX
from schemas.replies import RejectionCode, Reply
from schemas.types import EMPTY, MESSAGE_ID_LENGTH_MAX, NUMBER_MAX, POSITION_MAX

Json = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

ROOTS: Final[Mapping[str, tuple[type, ...]]] = {
    "Command": get_args(Command),
    "Reply": get_args(Reply),
    "RecordedEvent": (RecordedEvent,),
}
"""What has a schema of its own, by its title: one of these types each."""

_DESCRIPTIONS: Final = {
    "Command": "What a message on the command queue holds: a command with its events, or with a claim to them.",
    "Reply": "What a producer gets back for a command: one of three outcomes. Fields that are not listed may come.",
    "BrookKey": "Names one brook: one ordered sequence of events. Both parts together have at most"
    f" {BROOK_KEY_BYTES_MAX:,} bytes of UTF-8.",
}

_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"
_ID: Final = {"maxLength": MESSAGE_ID_LENGTH_MAX, "pattern": f"^[^{_CONTROL}]*$"}
_COMMAND_ID: Final = {**_ID, "minLength": 1}
_EXPECTED: Final = {"minimum": EMPTY, "maximum": POSITION_MAX}
_KEY_PART: Final = {"minLength": 1, "maxLength": BROOK_KEY_BYTES_MAX - 1, "pattern": f"^[^|{_CONTROL}]+$"}


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^(?:{pattern.pattern})$"


_DATA: Final = {"pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}
_TIME: Final = {"format": "date-time", "pattern": _whole(RFC_3339)}

_CHECKED: Final[Mapping[str, Mapping[str, Json]]] = {
    **{
        name: {
            "commandId": _COMMAND_ID,
            "correlationId": _ID,
            "causationId": _ID,
            "expected": _EXPECTED,
            **more,
        }
        for name, more in {"AppendCommand": {"events": {"minItems": 1}}, "ClaimedCommand": {}}.items()
    },
    "BrookKey": {"name": _KEY_PART, "entityId": _KEY_PART},
    "NewEvent": {"eventType": {"minLength": 1}, "data": _DATA, "time": _TIME},
    "Claim": {
        "blob": {"maxLength": BLOB_NAME_LENGTH_MAX, "pattern": _whole(BLOB_NAME)},
        "sizeBytes": {"minimum": 1, "maximum": NUMBER_MAX},
        "sha256": {"pattern": _whole(SHA_256)},
        "eventCount": {"minimum": 1, "maximum": NUMBER_MAX},
        "expiresAt": _TIME,
        "payloadDigest": {"pattern": _whole(PAYLOAD_DIGEST)},
    },
    "Rejected": {"code": {"examples": [code.value for code in RejectionCode]}},
}
"""What the guards add to the types, by type and field."""


def components(ref_template: str) -> dict[str, Json]:
    """Every type's schema by its name, the roots among them; references are made by `ref_template`, with `{name}`."""
    _, found = msgspec.json.schema_components(
        [each for types in ROOTS.values() for each in types], ref_template=ref_template
    )
    for name, checks in _CHECKED.items():
        for field, keywords in checks.items():
            _add(found[name]["properties"][field], keywords)
    for name, types in ROOTS.items():
        if name not in found:
            references = [{"$ref": ref_template.format(name=each.__name__)} for each in types]
            found[name] = {"title": name, "anyOf": references}
    for name, schema in found.items():
        schema["description"] = _DESCRIPTIONS.get(name) or _as_json_has_it(schema.get("description", ""))
    return dict(sorted(found.items()))


def schema_of(title: str) -> Json:
    """The schema of one root, complete in itself."""
    every = components("#/$defs/{name}")
    root = every[title]
    return {
        "$schema": DIALECT,
        "$id": f"urn:brook-worker:schema:{SCHEMA_VERSION}:{file_stem(title)}",
        **root,
        "$defs": {name: every[name] for name in _reachable(every, root)},
    }


def file_stem(title: str) -> str:
    """`recorded-event` for `RecordedEvent`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", title).lower()


def _add(field: Json, keywords: Json) -> None:
    """Add keywords to the alternative of a field that they are for: the one that is not null and no list of words."""
    alternatives = field.get("anyOf", [field])
    [target] = [each for each in alternatives if each.get("type") != "null" and "enum" not in each]
    target.update(keywords)


def _reachable(every: Mapping[str, Json], root: Json) -> list[str]:
    """The names of all components that a schema leads to."""
    found: set[str] = set()
    waiting = [root]
    while waiting:
        for name in _references(waiting.pop()) - found:
            found.add(name)
            waiting.append(every[name])
    return sorted(found)


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(_references, node.values()))


def _as_json_has_it(text: str) -> str:
    """A docstring with the names that fields and constants have in JSON."""
    text = inspect.cleandoc(text).replace(" None ", " null ")
    text = re.sub(r"`([A-Z]+(?:_[A-Z]+)+)`", lambda found: f"`{found[1].lower().replace('_', '-')}`", text)
    return re.sub(r"`([a-z]+(?:_[a-z]+)+)`", lambda found: f"`{camel_case(found[1])}`", text)


def camel_case(name: str) -> str:
    """`firstPosition` for `first_position`, as `rename="camel"` has it."""
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)
