"""`python -m schemas.export`: write the JSON Schema files and the AsyncAPI document, or check that they are current."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from schemas import asyncapi, json_schema

FOLDER: Final = Path(__file__).parent / "json"


def rendered() -> Mapping[str, bytes]:
    """Every file by its name: the same bytes for the same types."""
    documents = {
        f"{json_schema.file_stem(title)}.schema.json": json_schema.schema_of(title) for title in json_schema.ROOTS
    }
    documents["asyncapi.json"] = asyncapi.document()
    return {
        name: msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        for name, document in sorted(documents.items())
    }


def differing(folder: Path) -> list[str]:
    """The names of files that are missing, differ, or are no longer made."""
    wanted = rendered()
    found = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def write(folder: Path) -> None:
    """Write all files and delete those that are no longer made. Raises OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = rendered()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (folder / name).write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command; its exit code: 0, or 1 when files are not current or cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m schemas.export", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing; say which files are not current")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            write(options.folder)
            return 0
        stale = differing(options.folder)
    except OSError as error:
        sys.stderr.write(f"error: {error.filename}: {error.strerror}; give a folder that can be written\n")
        return 1
    if stale:
        sys.stderr.write(f"error: not current: {', '.join(stale)}; run python -m schemas.export\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
