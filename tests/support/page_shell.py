"""Shell blocks of the documentation: the commands in them, and a script that runs a page's blocks in order."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from tests.support.pages import Block

SHELLS: Final = ("sh", "console")

# What runs until it is stopped is started in the background, and waited for until its output shows this.
_LASTING: Final = {
    ("brook-worker", "emulator"): "control_endpoint",
    ("brook-worker", "run"): "worker.started",
    ("brook-worker", "watch"): ".",
    ("make", "docs-serve"): "Serving on",
}
_HEREDOC: Final = re.compile(r"<<-? *(['\"]?)(\w+)\1")
_SEPARATORS: Final = frozenset({"|", "||", "&&", ";", "&", "(", ")", "{", "}", "|&", ";;"})
_KEYWORDS: Final = frozenset({"do", "then", "else", "if", "while", "until", "!", "time", "exec", "sudo", "nohup"})
_ASSIGNMENT: Final = re.compile(r"^[A-Za-z_]\w*=")

_PROLOGUE: Final = r"""
set -euo pipefail
until_ready() {  # NAME LOG PATTERN PID
  for _ in $(seq 600); do
    if grep -q -- "$3" "$2"; then return 0; fi
    if ! kill -0 "$4" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "not ready: $1" >&2; tail -n 20 "$2" >&2
  return 1
}
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
"""


def command_text(block: Block) -> str:
    """The commands of a block, without the prompts and the output of a `console` block."""
    if block.language == "sh":
        return block.text
    return "".join(f"{line[2:]}\n" for line in block.text.splitlines() if line.startswith(("$ ", "> ")))


def shown_output(block: Block) -> str:
    """What a `console` block shows besides its commands."""
    return "".join(f"{line}\n" for line in block.text.splitlines() if not line.startswith(("$ ", "> ")))


def logical_lines(text: str) -> Iterator[str]:
    """Lines as the shell takes them: continued ones, open quotes and here-documents together."""
    pending: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        pending.append(line)
        whole = "\n".join(pending)
        if _is_open(whole):
            continue
        for _, word in _HEREDOC.findall(_without_quotes(line)) or _HEREDOC.findall(line):
            for inner in lines:
                pending.append(inner)
                if inner.strip() == word:
                    break
        yield "\n".join(pending)
        pending = []
    if pending:
        yield "\n".join(pending)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command, without assignments, redirections, comments and here-documents."""
    for line in logical_lines(text):
        first = line.partition("\n")[0] if _HEREDOC.search(line) else line.replace("\\\n", " ")
        words: list[str] = []
        lexer = shlex.shlex(first, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        tokens = iter(lexer)
        for token in tokens:
            if token in _SEPARATORS:
                yield from [words] if words else []
                words = []
            elif set(token) <= set("<>&"):
                next(tokens, None)
                if words and words[-1].isdigit():
                    words.pop()
            elif words or not (_ASSIGNMENT.match(token) or token in _KEYWORDS):
                words.append(token)
        yield from [words] if words else []


def is_lasting(words: Sequence[str]) -> bool:
    """Whether a command goes on until it is stopped."""
    return (tuple(words[:2]) in _LASTING or "--follow" in words) and "--help" not in words


def script(blocks: Sequence[tuple[int, Block]], folder: str) -> str:
    """Run the blocks in order in one shell. What each prints goes to `folder`/N.out, N its number on the page."""
    parts = [_PROLOGUE]
    for number, block in blocks:
        body = "\n".join(_line(line, f"{folder}/{number}.{index}.log") for index, line in _numbered(block))
        parts.append(f"echo {shlex.quote(block.where)}\n{{\n{body}\n}} >{folder}/{number}.out 2>&1\n")
    return "".join(parts)


def _numbered(block: Block) -> Iterator[tuple[int, str]]:
    yield from enumerate(logical_lines(command_text(block)))


def _line(line: str, log: str) -> str:
    """A line as it is run: what lasts goes to the background, and `make` only tells what it would do."""
    found = list(commands(line))
    if len(found) == 1 and is_lasting(found[0]):
        words = found[0]
        text = re.sub(r"\s+#.*$", "", line).rstrip().removesuffix("&")
        pattern = shlex.quote(_LASTING.get((words[0], words[1]), "."))
        name = shlex.quote(" ".join(words))
        return f"touch {log}; {text} >{log} 2>&1 &\nuntil_ready {name} {log} {pattern} $!"
    return re.sub(r"^(\s*)make(?=\s|$)", r"\1make -n", line) if found and found[0][0] == "make" else line


def _is_open(text: str) -> bool:
    """Whether the shell would read on: a backslash at the end, or a quote that is not closed."""
    if text.endswith("\\"):
        return True
    try:
        list(shlex.shlex(text, posix=True, punctuation_chars=True))
    except ValueError:
        return not _HEREDOC.search(text)
    return False


def _without_quotes(line: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
