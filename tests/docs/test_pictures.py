"""The pictures are what the code draws, need nothing else to be seen, and the demo's one is of a run that went well."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docsite.diagrams import DIAGRAMS, PICTURES
from docsite.recording import recording
from docsite.states import states
from docsite.terminal import Chunk, Frame, Terminal, frames
from tests.support.pages import ROOT
from worker.protocol.states import MEANINGS, TRANSITIONS

DEMO = PICTURES / "demo.svg"
BYTES_MAX = 120_000
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_as_it_is_drawn(name: str) -> None:
    assert (PICTURES / name).read_text(encoding="utf-8") == DIAGRAMS[name](), "run `make diagrams`"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in sorted(PICTURES.glob("*.svg"))])
def test_a_picture_needs_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= BYTES_MAX
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title") is not None, "for those who cannot see it"
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert re.findall(r"<script|@import|@font-face|url\((?!#)", text) == []
    assert {link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith("#")} == set()


def test_every_transition_of_the_protocol_is_in_its_picture() -> None:
    drawn = ET.fromstring(states())
    texts = [element.text or "" for element in drawn.iter(f"{SVG}text")]
    assert set(MEANINGS) <= set(texts)
    arrows = [element for element in drawn.iter(f"{SVG}path") if element.get("marker-end")]
    assert len(arrows) == len({(one.before, one.after) for one in TRANSITIONS})
    for transition in TRANSITIONS:
        assert any(transition.write in text for text in texts), transition


def test_the_demos_picture_is_of_a_run_that_went_well() -> None:
    text = "".join(ET.fromstring(DEMO.read_text(encoding="utf-8")).itertext())
    [alternative] = re.findall(
        r"!\[([^\]]*)\]\(docs/pictures/demo.svg\)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    [count] = re.findall(r"[\d,]+ commands", alternative)
    assert count.removesuffix(" commands") in text
    for shown in ("make demo", "commands per second", "Cosmos DB requests per command", "All as expected"):
        assert shown in text


def test_the_terminal_shows_what_was_written_last() -> None:
    terminal = Terminal()
    terminal.feed("start\n\x1b[?25lone 1\ntwo 1")
    assert terminal.lines == ("start", "one 1", "two 1")
    terminal.feed("\r\x1b[2K\x1b[1A\x1b[2K\x1b[32mone\x1b[0m 2\ntwo 2\n\x1b[?25h")
    assert terminal.lines == ("start", "\x1b[32mone\x1b[0m 2", "two 2")
    terminal.feed("end\n")
    assert list(terminal.lines) == ["start", "\x1b[32mone\x1b[0m 2", "two 2", "end"]


def test_the_terminal_says_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="the terminal knows no"):
        Terminal().feed("\x1b[10;20H")


def test_frames_are_taken_at_most_so_often_and_the_last_one_always() -> None:
    chunks = [Chunk(0.0, "a"), Chunk(0.1, "b"), Chunk(0.6, "c"), Chunk(0.7, ""), Chunk(0.8, "d")]
    assert frames(chunks, every_s=0.5) == [Frame(0.0, ("a",)), Frame(0.6, ("abc",)), Frame(0.8, ("abcd",))]


def test_a_recording_shows_the_last_frame_where_nothing_moves() -> None:
    drawn = recording([Frame(0.0, ("one",)), Frame(1.0, ("one", "<two>"))], title="t & u", columns=20)
    root = ET.fromstring(drawn)
    groups = {element.get("id"): element for element in root.iter(f"{SVG}g") if element.get("class") == "f"}
    assert [groups[name].get("visibility") for name in ("f0", "f1")] == ["hidden", None]
    assert "<two>" in "".join(root.itertext())
    assert drawn.count(">one<") == 1, "a line that frames share stands there once"
    assert "prefers-reduced-motion" in drawn
