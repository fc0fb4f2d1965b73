"""The sources in languages that nothing here compiles: they parse by the grammars that editors use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import tree_sitter_bicep
import tree_sitter_c_sharp
from tree_sitter import Language, Node, Parser

ROOT: Final = Path(__file__).parents[2]
LANGUAGES: Final = {".bicep": Language(tree_sitter_bicep.language()), ".cs": Language(tree_sitter_c_sharp.language())}
SOURCES: Final = sorted(
    path for folder in ("deploy", "examples") for path in (ROOT / folder).rglob("*") if path.suffix in LANGUAGES
)


def mistakes(source: bytes, suffix: str) -> list[str]:
    """What the grammar does not take, and what it finds missing, each with its line."""

    def within(node: Node) -> Iterator[str]:
        if node.is_error or node.is_missing:
            yield f"line {node.start_point.row + 1}: {'missing ' if node.is_missing else ''}{node.type}"
        for child in node.children:
            yield from within(child)

    return list(within(Parser(LANGUAGES[suffix]).parse(source).root_node))


def test_both_languages_are_looked_at() -> None:
    assert {path.suffix for path in SOURCES} == set(LANGUAGES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_parses_without_an_error(path: Path) -> None:
    assert mistakes(path.read_bytes(), path.suffix) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_that_lost_a_closing_bracket_does_not_parse(path: Path) -> None:
    before, bracket, after = path.read_bytes().rpartition(b"\n}")
    assert bracket
    assert mistakes(before + after, path.suffix)


@pytest.mark.parametrize(
    ("suffix", "source"),
    [
        (".bicep", b"resource a 'T@2024-01-01' = {\n  name: 'x\n}\n"),
        (".bicep", b"param a string =\n"),
        (".cs", b"class A { void B() { int c = ; } }\n"),
        (".cs", b"class A { void B() { C(1, 2 } }\n"),
    ],
)
def test_broken_text_does_not_parse(suffix: str, source: bytes) -> None:
    assert mistakes(source, suffix)
