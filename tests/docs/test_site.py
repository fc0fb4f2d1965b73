"""The site builds without a warning and without a network, and shows nothing that comes from another host."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docsite import reference
from docsite.hooks import outside_of_blocks
from tests.support.pages import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUILD_TIMEOUT_S = 280


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build with every way to another host closed: a proxy that nobody listens at."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:1")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(folder)],
        cwd=config.parent,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )


class Loaded(HTMLParser):
    """Collects what a browser would load to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.classes.update(given.get("class", "").split())
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.addresses.append(given.get("src", ""))
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.addresses.append(given.get("href", ""))


def loaded(site: Path) -> Iterator[tuple[Path, Loaded]]:
    for path in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(path.read_text(encoding="utf-8"))
        yield path, parser


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    foreign = [
        (path.name, address)
        for path, page in loaded(site)
        for address in page.addresses
        if re.match(r"(https?:)?//", address)
    ]
    assert foreign == []
    for path in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//|@import", path.read_text(encoding="utf-8")) == [], path


def test_no_page_needs_a_library_that_the_theme_would_fetch(site: Path) -> None:
    """The theme's script loads Mermaid from another host where a page has a Mermaid diagram."""
    assert [path.name for path, page in loaded(site) if "mermaid" in page.classes] == []


def test_readme_is_the_first_page_and_its_picture_is_there(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "Your first command in five minutes" in page
    assert "<!-- file:" not in page, "markers are for the tests"
    for address in re.findall(r'<img[^>]* src="([^"]+)"', page):
        assert (site / address).exists(), address


def test_links_to_readme_lead_to_the_first_page(site: Path) -> None:
    anchor = "programs-in-other-languages"
    assert f'href="index.html#{anchor}"' in (site / "producers.html").read_text(encoding="utf-8")
    assert f'id="{anchor}"' in (site / "index.html").read_text(encoding="utf-8")


def test_what_names_a_row_of_a_table_stays_in_one_piece(site: Path) -> None:
    assert "stylesheets/site.css" in (site / "settings.html").read_text(encoding="utf-8")
    assert "word-break: normal" in (site / "stylesheets" / "site.css").read_text(encoding="utf-8")


def test_braces_in_a_table_are_shown(site: Path) -> None:
    """An extension of the theme's takes them for attributes, and they vanish: the units of metrics have them."""
    assert "counter, {command}</td>" in (site / "telemetry.html").read_text(encoding="utf-8")


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    messages = (site / "reference" / "messages.html").read_text(encoding="utf-8")
    for shown in ("commandId", "concurrency-conflict", "base64 string", "metadata_depth_max"):
        assert shown in messages
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for shown in ("BrookClient", "ConcurrencyConflict", "session_id_for", "acquire"):
        assert shown in python


def test_the_site_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("five minutes" in entry["title"] for entry in index["docs"])
    assert list((site / "assets" / "javascripts" / "workers").glob("search.*.js"))


def test_broken_links_fail_the_build(tmp_path: Path) -> None:
    config = tmp_path / "mkdocs.yml"
    content = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for what_takes_long in (r"^watch:.*\n", r"^hooks:\n(?:  .*\n)+", r"^  - mkdocstrings:\n(?:   .*\n)+"):
        content, count = re.subn(what_takes_long, "", content, flags=re.MULTILINE)
        assert count == 1, what_takes_long
    config.write_text(re.sub(r"^nav:.*", "nav: [page.md]\n", content, flags=re.MULTILINE | re.DOTALL), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    text = "# Page\n\n[a](gone.md), [b](#gone-anchor), [c](../nowhere/gone.svg)\n"
    (tmp_path / "docs" / "page.md").write_text(text, encoding="utf-8")
    done = build(config, tmp_path / "site")
    assert done.returncode != 0
    for told in ("gone.md", "#gone-anchor", "nowhere/gone.svg"):
        assert told in done.stderr


def test_blocks_are_left_alone_when_links_are_changed() -> None:
    text = "a\n```sh\na\n```\na\n~~~text\na\n~~~\na\n"
    assert outside_of_blocks(text, lambda part: part.replace("a", "b")) == "b\n```sh\na\n```\nb\n~~~text\na\n~~~\nb\n"


def test_every_generated_page_has_one_title() -> None:
    for name, text in reference.pages().items():
        assert len(re.findall(r"^# ", outside_of_blocks(text, str), re.MULTILINE)) == 1, name


def test_bars_in_the_code_of_a_table_are_bars(site: Path) -> None:
    """On GitHub a table needs them escaped."""
    for path in site.rglob("*.html"):
        cells = re.findall(r"<td[^>]*>.*?</td>", path.read_text(encoding="utf-8"), re.DOTALL)
        assert [cell for cell in cells if re.search(r"<code>[^<]*\\\|", cell)] == [], path
