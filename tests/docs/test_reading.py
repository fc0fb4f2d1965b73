"""The reader of the documentation sees what is there: blocks, markers, commands, and what lasts."""

from pathlib import Path

import pytest

from tests.support.page_shell import command_text, commands, is_lasting, logical_lines, script, shown_output
from tests.support.pages import ROOT, Block, blocks

PAGE = """\
# Page

<!-- not run: needs a cluster -->
```sh
kubectl get pods
```

1. A list

   <!-- file: x.toml -->

   ```toml
   a = 1
   ```

<!-- run -->
A sentence between takes the marker away.

~~~console
$ a
shown
~~~
"""


def shell(text: str, language: str = "sh") -> Block:
    return Block(ROOT / "README.md", 1, language, text, ())


def test_blocks_have_their_language_their_markers_and_no_indentation(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = list(blocks(page))
    assert [(block.line, block.language) for block in found] == [(4, "sh"), (12, "toml"), (19, "console")]
    assert found[0].marker("not run") == "needs a cluster"
    assert (found[1].marker("file"), found[1].text) == ("x.toml", "a = 1\n")
    assert found[2].markers == ()


def test_a_block_that_does_not_end_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n")
    with pytest.raises(ValueError, match="does not end"):
        list(blocks(page))


def test_console_blocks_are_commands_and_what_they_show() -> None:
    block = shell("$ cat <<END\n> a\n> END\na\n", "console")
    assert command_text(block) == "cat <<END\na\nEND\n"
    assert shown_output(block) == "a\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a \\\n  b\nc", ["a \\\n  b", "c"]),
        ("echo 'a\nb'\nc", ["echo 'a\nb'", "c"]),
        ("cat >f <<'END'\nit's\nEND\nc", ["cat >f <<'END'\nit's\nEND", "c"]),
        ("a  # it's a comment\nb", ["a  # it's a comment", "b"]),
    ],
)
def test_lines_are_read_as_the_shell_reads_them(text: str, lines: list[str]) -> None:
    assert list(logical_lines(text)) == lines


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1 make x ARGS='a b' >out 2>&1  # why", [["make", "x", "ARGS=a b"]]),
        ("a | b --c && d; e &", [["a"], ["b", "--c"], ["d"], ["e"]]),
        ("if a; then b; fi", [["a"], ["b"], ["fi"]]),
        ("brook-worker read 'order|42'", [["brook-worker", "read", "order|42"]]),
        ("export A=1\n\n# nothing", [["export", "A=1"]]),
    ],
)
def test_commands_are_found_in_a_line(text: str, found: list[list[str]]) -> None:
    assert [words for words in commands(text) if words != ["if"]] == found


def test_what_lasts_is_started_in_the_background_and_make_only_tells() -> None:
    assert is_lasting(["brook-worker", "run", "--config", "x"])
    assert is_lasting(["brook-worker", "read", "a|b", "--follow"])
    assert not is_lasting(["brook-worker", "run", "--help"])
    made = script([(0, shell("brook-worker run    # start as many as you like\nmake demo\n"))], "/out")
    assert (
        "brook-worker run >/out/0.0.log 2>&1 &\nuntil_ready 'brook-worker run' /out/0.0.log worker.started $!" in made
    )
    assert "make -n demo" in made
