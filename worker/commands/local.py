"""The settings that lead a worker to the embedded services, as a file for `--config` or BROOK_WORKER_CONFIG."""

import json
from pathlib import Path
from typing import Final

from worker.commands.failures import CommandError

_SETTINGS: Final = (
    "servicebus_connection_string",
    "servicebus_admin_endpoint",
    "cosmos_endpoint",
    "cosmos_key",
    "blob_connection_string",
)
"""What the embedded services tell of themselves under the names of settings; they tell more than that."""

_HEADING: Final = "# Written by `brook-worker emulator`: settings that lead to it for as long as it runs.\n"


def write_settings_file(path: Path, ready_line: str) -> None:
    """Write the settings, whole or not at all. Raises CommandError where the file cannot be written.

    `ready_line` is what the embedded services announce. The keys in it are published ones and protect nothing.
    """
    addresses = json.loads(ready_line)
    # A JSON string of ASCII is a TOML string too.
    lines = [f"{name} = {json.dumps(addresses[name])}\n" for name in _SETTINGS]
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(_HEADING + "".join(lines), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise CommandError(
            f"cannot write the settings file {path}: {error.strerror}; give another --settings-file"
        ) from error
