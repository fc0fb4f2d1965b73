"""docs/settings.md, generated from the settings themselves. A test fails when the page is not up to date."""

import re
from typing import Any, Final

import msgspec
from msgspec.inspect import Metadata

from worker.configuration import FILE_VARIABLE, allowed, variable
from worker.locking.options import RENEWAL_MARGIN_S
from worker.settings import Settings

_INTRODUCTION: Final = f"""\
# Settings

Each setting is an environment variable, or a key of the same name in a TOML file: `BROOK_WORKER_LEASE_DURATION_S=30`
or `lease_duration_s = 30`. The file is the one that `--config` or `{FILE_VARIABLE}` names; variables go over it.
A setting that is wrong, missing or unknown stops the worker with one line that names it and says what to change.

In a variable, a list is parted by commas, flags are `true` or `false`, and an empty value means none where a setting
may be none. Times are in seconds (`_s`), sizes in bytes (`_bytes`).

Connection strings and keys are never logged or shown.

| variable | what it is | default | allowed |
|---|---|---|---|
"""

_CHECKS: Final = f"""
## Checked against each other

- For each service either a key or an identity, never both: exactly one of `servicebus_connection_string` and
  `servicebus_namespace`, of `blob_connection_string` and `blob_account_url`, of `cosmos_key` and `azure_credential`.
- An identity needs `azure_credential`, which is `managed`, `workload` (AKS), `cli` (`az login`) or `default` (tries one
  after the other), and https.
- `lease_renew_after_s` must leave {RENEWAL_MARGIN_S:g} s of `lease_duration_s`, for a renewal that is not answered
  and one more.
- Exactly one of `reply_queue` and `reply_topic` is set. `reply_topic` alone turns the default `reply_queue` off.
- `command_queue` is none of the reply addresses, and `claim_container` is not `lease_container`.
- `group_commands_max` is at most `recent_commands_max`: every command of a group must still be in the head when it is
  delivered again.
- `batch_bytes_max` holds the largest head that `recent_commands_max` commands make, and as much again for an event.
- `cosmos_timeout_s` is at most `store_time_max_s`, `session_pause_initial_s` at most `session_pause_max_s`, and
  `reply_send_timeout_s` at most `drain_grace_s`.

This page is generated: `python -m worker.settings_page > docs/settings.md`.
"""


def settings_page() -> str:
    """The whole page."""
    return _INTRODUCTION + "".join(map(_row, msgspec.structs.fields(Settings))) + _CHECKS


def _row(field: msgspec.structs.FieldInfo) -> str:
    kind = msgspec.inspect.type_info(field.type)
    assert isinstance(kind, Metadata), f"{field.name} has a description"
    description = (kind.extra_json_schema or {})["description"]
    default = "*required*" if field.required else _default(field.default)
    return f"| `{variable(field.name)}` | {_linked(_cell(description))} | {default} | {_cell(allowed(field.name))} |\n"


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _linked(text: str) -> str:
    """Pages that are named, as links from among them."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201 - the page is what this prints
