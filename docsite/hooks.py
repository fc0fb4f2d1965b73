"""What MkDocs calls while it builds the site: pages from README and from the code, links out of docs/.

README is the site's first page, and links to it lead there. A page may link to any file of the repository, as on
GitHub: pictures and other files go into the site beside the pages, under `repository/`; folders and sources are only
named.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docsite import reference

ROOT: Final = Path(__file__).parents[1]

_LINK: Final = re.compile(r"(?P<before>!?\[(?P<text>[^\]]*)\]\()(?P<target>[^)\s]+)(?P<after>\))")
_CODE: Final = re.compile(r"`[^`\n]+`")
"""In a table on GitHub a bar in code is escaped; here it must not be."""
_COMMENT: Final = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_FENCED: Final = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^\1\2`*~*[ ]*$", re.MULTILINE | re.DOTALL)
_SHOWN: Final = frozenset({".svg", ".png", ".json", ".ndjson", ".toml", ".yaml", ".yml", ".txt"})


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the first page and the generated pages."""
    made = {"index.md": _first_page(), **reference.pages()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision into the navigation where it says `decisions/`."""
    config.nav = list(_expanded(config.nav or [], Path(config.docs_dir)))
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take the markers off, which are for the tests, and lead links out of docs/ to where they are in the site."""

    def led(text: str) -> str:
        text = _CODE.sub(lambda code: code.group().replace("\\|", "|"), _COMMENT.sub("", text))
        return _LINK.sub(lambda link: _led(link, page, config, files), text)

    return outside_of_blocks(markdown, led)


def outside_of_blocks(markdown: str, change: Callable[[str], str]) -> str:
    """Change all text but fenced blocks."""
    parts, at = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [change(markdown[at : block.start()]), block.group()]
        at = block.end()
    return "".join([*parts, change(markdown[at:])])


def _first_page() -> str:
    """README, with its links as they are from within docs/."""

    def moved(link: re.Match[str]) -> str:
        target = link["target"]
        if not re.match(r"[a-z]+:|#", target):
            target = posixpath.relpath(target, "docs")
        return f"{link['before']}{target}{link['after']}"

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return outside_of_blocks(text, lambda part: _LINK.sub(moved, part))


def _expanded(entries: list[Any], docs: Path) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, dict):
            [(title, value)] = entry.items()
            if value == "decisions/":
                yield {title: [f"decisions/{path.name}" for path in sorted((docs / "decisions").glob("*.md"))]}
            else:
                yield {title: list(_expanded(value, docs)) if isinstance(value, list) else value}
        else:
            yield entry


def _led(link: re.Match[str], page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link as it is in the site: unchanged within docs/, to a copy for a file elsewhere, else only its text."""
    target = link["target"]
    if re.match(r"[a-z]+:|#", target):
        return link.group()
    path, _, anchor = target.partition("#")
    folder = posixpath.dirname(page.file.src_uri)
    inside = posixpath.normpath(posixpath.join(folder, path))
    if not inside.startswith("../"):
        if files.get_file_from_path(inside) is None and (ROOT / "docs" / inside).is_dir():
            return _first_of(inside, folder, link, files)
        return link.group()
    name = posixpath.relpath(posixpath.join("docs", inside), ".")
    anchor = f"#{anchor}" if anchor else ""
    if name == "README.md":
        return f"{link['before']}{posixpath.relpath('index.md', folder or '.')}{anchor}{link['after']}"
    source = ROOT / name
    if not source.exists():
        return link.group()  # the build tells of it
    if source.is_dir() or source.suffix not in _SHOWN:
        return link["text"]
    copy = f"repository/{name}"
    if files.get_file_from_path(copy) is None:
        files.append(File.generated(config, copy, content=source.read_bytes()))
    return f"{link['before']}{posixpath.relpath(copy, folder or '.')}{anchor}{link['after']}"


def _first_of(inside: str, folder: str, link: re.Match[str], files: Files) -> str:
    """A folder of docs/ is its first page."""
    found = sorted(
        file.src_uri for file in files if file.src_uri.startswith(f"{inside}/") and file.is_documentation_page()
    )
    return f"{link['before']}{posixpath.relpath(found[0], folder or '.')}{link['after']}" if found else link["text"]
