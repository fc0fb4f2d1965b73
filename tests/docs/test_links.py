"""Every link and anchor in the documentation leads somewhere, and every page can be found."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.pages import ROOT, anchors, links, pages, slug_of

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = [link.where for link in links(page) if not leads_somewhere(page, unquote(link.target))]
    assert broken == []


def leads_somewhere(page: Path, target: str, root: Path = ROOT) -> bool:
    if re.match(r"(https?|mailto):", target):
        return True
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(root) or not file.exists():
        return False
    return not anchor or file.suffix != ".md" or anchor in anchors(file)


def test_anchors_are_made_as_github_makes_them() -> None:
    assert slug_of("The same reply, each time") == "the-same-reply-each-time"
    assert slug_of("`recover` & [links](x.md)") == "recover--links"
    assert slug_of("Größe") == "größe"


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n[one](#a) [two](#b) `[code](x)`\n\n```sh\n[no](link)\n```\n![three](gone.svg)\n")
    assert [link.target for link in links(page)] == ["#a", "#b", "gone.svg"]
    assert [leads_somewhere(page, link.target, tmp_path) for link in links(page)] == [True, False, False]


def test_every_page_is_in_the_navigation() -> None:
    """Decisions are added to it by themselves."""
    named = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    missing = {
        str(page.relative_to(DOCS))
        for page in DOCS.rglob("*.md")
        if page.parent.name != "decisions" and str(page.relative_to(DOCS)) not in named
    }
    assert missing == set()


def test_no_page_is_in_the_navigation_twice() -> None:
    """The theme would mark both, and lead from one to the other by its arrows."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"[\w./-]+\.md", text)
    assert named
    assert sorted(named) == sorted(set(named))


def test_words_that_the_glossary_rules_out_are_not_used() -> None:
    """Cheap on purpose: those that have no other meaning on any page."""
    ruled_out = re.compile(r"\b(cursors?|acks?|acked|stream version|event stream)\b", re.IGNORECASE)
    found = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages()
        if page.name != "glossary.md" and not page.name.startswith("emulator")
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if ruled_out.search(line)
    ]
    assert found == []
