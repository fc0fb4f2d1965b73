"""`python run_block.py FILE`: executes a block of the documentation, which may await at its top level."""

import ast
import asyncio
import inspect
import sys
from pathlib import Path


def main(path: str) -> None:
    """Execute the file in a module of its own."""
    code = compile(Path(path).read_text(encoding="utf-8"), path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    namespace: dict[str, object] = {"__name__": "__main__"}
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    main(sys.argv[1])
