"""What makes a site of docs/: pages of the repository that stand elsewhere, pages made of the code, links between them.

    mkdocs build --strict        # mkdocs.yml names this file

Documents are written to be read where they stand in the repository. Here their links are led to where the site has what
they name; what it does not have (a source file, say) is named without a link.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

import reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
# Documents outside of docs/, and the one that both have, by their place in the site.
PLACES = {
    "index.md": "README.md",
    "guides.md": "docs/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "peers.md": "tests/peers/README.md",
    "default_checkpoint.md": "models/checkpoints/default/README.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)")
_COMMENT = re.compile(r"^<!-- .*? -->$", re.MULTILINE)
# What a browser would fetch by itself, from elsewhere.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:\w+:)?//[^>]*>|<link\b[^>]*href=[\"']?(?:\w+:)?//[^>]*>"
)
_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the navigation the pages that are made of the code."""
    config.nav[-1:-1] = [{"Reference": reference.navigation()}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    made = {place: (REPOSITORY / source).read_text(encoding="utf-8") for place, source in PLACES.items()}
    for place, text in {**made, **reference.pages()}.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """The text with links that hold in the site. Python-Markdown reads no table below a comment."""
    place = page.file.src_uri
    if place == "index.md":
        page.meta["hide"] = ["navigation"]  # it would hold this page alone
    source = PLACES.get(place, f"docs/{place}")
    text = _COMMENT.sub("", _METADATA.sub("", markdown))
    return text if place.startswith("reference/") else linked(text, source, place, set(files.src_uris))


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Refuse a page that would fetch something from the network."""
    if fetched := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch something from the network: {fetched[0]}")
    return output


def linked(text: str, source: str, place: str, known: set[str]) -> str:
    """The text of a document of the repository with links from its place in the site to others there.

    A link that leads nowhere in the repository either stays one, for mkdocs to find.
    """
    places = {document: there for there, document in PLACES.items()}

    def lead(found: re.Match[str]) -> str:
        picture, label, target, anchor = found.groups()
        named = normpath(str(PurePosixPath(source).parent / target))
        there = places.get(named, named.removeprefix("docs/"))
        if there not in known and (REPOSITORY / named).exists():
            return label if label.startswith("`") else f"{label} (`{named}`)"
        return f"{picture}[{label}]({relpath(there, str(PurePosixPath(place).parent))}{anchor or ''})"

    return _LINK.sub(lead, text)
