"""Partial document update: https://learn.microsoft.com/azure/cosmos-db/partial-document-update."""

from collections.abc import Sequence
from typing import Any, Final

from emulator.cosmos.errors import bad_request
from emulator.cosmos.values import as_double, decode, is_number

OPERATIONS_MAX: Final = 10
_KINDS: Final = ("add", "set", "replace", "remove", "incr", "move")
_UNTOUCHABLE: Final = frozenset({"id", "_rid", "_self", "_etag", "_ts", "_attachments"})


def parse_operations(raw: Any) -> list[dict[str, Any]]:
    """The operations of a patch.

    Raises:
        CosmosError: 400 for none, for more than ten, and for malformed ones.
    """
    if type(raw) is not list or not raw:
        raise bad_request("A patch needs a list of operations with at least one member.")
    if len(raw) > OPERATIONS_MAX:
        raise bad_request(f"A patch must not have more than {OPERATIONS_MAX} operations.")
    for operation in raw:
        if type(operation) is not dict or operation.get("op") not in _KINDS:
            raise bad_request(f"Each patch operation needs an 'op' out of {', '.join(_KINDS)}.")
        if operation["op"] not in ("remove", "move") and "value" not in operation:
            raise bad_request(f"The patch operation '{operation['op']}' needs a 'value'.")
    return raw


def apply_patch(document: dict[str, Any], operations: Sequence[dict[str, Any]]) -> None:
    """Change `document` in place by all operations in order.

    Raises:
        CosmosError: 400 where an operation does not fit; the document is then to be thrown away.
    """
    for operation in operations:
        steps = _steps(operation.get("path"))
        if operation["op"] == "move":
            source = _steps(operation.get("from"))
            if steps[: len(source)] == source:
                raise bad_request("A move must not go into the value that it moves.")
            value = _remove(document, source)
            _write(document, steps, value, must_exist=False, insert=True)
        else:
            _apply_one(document, operation["op"], steps, operation.get("value"))


def _apply_one(document: dict[str, Any], kind: str, steps: list[str], value: Any) -> None:
    match kind:
        case "remove":
            _remove(document, steps)
        case "incr":
            _increment(document, steps, value)
        case _:
            _write(document, steps, value, must_exist=kind == "replace", insert=kind == "add")


def _steps(path: Any) -> list[str]:
    if type(path) is not str or not path.startswith("/") or path == "/":
        raise bad_request("Each patch operation needs a 'path' such as '/property' (and 'move' a 'from').")
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    if steps[0] in _UNTOUCHABLE:
        raise bad_request(f"The property '{steps[0]}' cannot be patched.")
    return steps


def _parent(document: dict[str, Any], steps: list[str]) -> Any:
    parent: Any = document
    for step in steps[:-1]:
        if type(parent) is dict and step in parent:
            parent = parent[step]
        elif type(parent) is list and step.isdecimal() and int(step) < len(parent):
            parent = parent[int(step)]
        else:
            raise bad_request(f"The patch path '/{'/'.join(steps)}' leads through something that is not there.")
    return parent


def _index(parent: list[Any], step: str, *, end_allowed: bool) -> int:
    if step == "-" and end_allowed:
        return len(parent)
    limit = len(parent) + 1 if end_allowed else len(parent)
    if not step.isdecimal() or int(step) >= limit:
        raise bad_request(f"The patch path's index '{step}' is outside of the array.")
    return int(step)


def _write(document: dict[str, Any], steps: list[str], value: Any, *, must_exist: bool, insert: bool) -> None:
    parent, last = _parent(document, steps), steps[-1]
    if type(parent) is dict:
        if must_exist and last not in parent:
            raise bad_request(f"There is nothing to replace at '/{'/'.join(steps)}'.")
        parent[last] = value
    elif type(parent) is list:
        index = _index(parent, last, end_allowed=not must_exist)
        if insert or index == len(parent):
            parent.insert(index, value)
        else:
            parent[index] = value
    else:
        raise bad_request(f"The patch path '/{'/'.join(steps)}' leads into a value that is no object or array.")


def _remove(document: dict[str, Any], steps: list[str]) -> Any:
    parent, last = _parent(document, steps), steps[-1]
    if type(parent) is dict and last in parent:
        return parent.pop(last)
    if type(parent) is list:
        return parent.pop(_index(parent, last, end_allowed=False))
    raise bad_request(f"There is nothing at '/{'/'.join(steps)}'.")


def _increment(document: dict[str, Any], steps: list[str], value: Any) -> None:
    if not is_number(value):
        raise bad_request("The value of 'incr' must be a number.")
    parent, last = _parent(document, steps), steps[-1]
    if type(parent) is dict:
        old = parent.get(last, 0)
        place: Any = last
    elif type(parent) is list:
        place = _index(parent, last, end_allowed=False)
        old = parent[place]
    else:
        raise bad_request(f"The patch path '/{'/'.join(steps)}' leads into a value that is no object or array.")
    if not is_number(old):
        raise bad_request(f"The value at '/{'/'.join(steps)}' is no number and cannot be incremented.")
    try:
        parent[place] = as_double(old + value)
    except ValueError as error:
        raise bad_request("The incremented value is out of the range of a double.") from error


def parse_request(raw: bytes) -> tuple[list[dict[str, Any]], Any]:
    """The operations of a patch and its condition. A bare list, as the JavaScript client sends it, has none.

    Raises:
        CosmosError: 400 where it is neither an object nor a list, or holds what is no operation.
    """
    body = decode(raw)
    if type(body) is list:
        return parse_operations(body), None
    if type(body) is not dict:
        raise bad_request("The body of a patch must be a JSON object with 'operations', or a list of operations.")
    return parse_operations(body.get("operations")), body.get("condition")
