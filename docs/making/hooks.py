"""What MkDocs cannot do by itself: pages from the code, pages from the root of the repository, no page left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.making.error_page import describe_errors
from docs.making.http_page import describe_http
from docs.making.option_page import describe_options

ROOT = Path(__file__).resolve().parents[2]
# Files of the root that are pages too: their place in the site.
ROOT_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
# `<!-- made here: NAME -->` in a page is replaced by what the code says.
_MADE = {"errors": describe_errors, "http": describe_http, "options": describe_options}
_MARK = re.compile(r"<!-- made here: (\w+) -->")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A new page appears without being named in mkdocs.yml."""
    docs = Path(config.docs_dir)
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    further = sorted(path.name for path in docs.glob("*.md") if path.name not in named)
    if further:
        config.nav.append({"Further": further})
    decisions = sorted(path.name for path in docs.glob("decisions/[0-9]*.md"))
    config.nav.append({"Decisions": ["decisions/index.md", *(f"decisions/{name}" for name in decisions)]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=relink(text, Path(), Path(config.docs_dir))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    made = _MARK.sub(lambda mark: _MADE[mark[1]](), markdown)
    if page.file.src_uri in ROOT_PAGES.values():
        return made
    return relink(made, Path("docs") / Path(page.file.src_uri).parent, Path(config.docs_dir))


def relink(text: str, folder: Path, docs: Path) -> str:
    """Links as they work in the repository, made to work in the site. `folder`: of the page, from the root.

    A file that is not part of the site keeps its name as text: a reader of the site may have no repository.
    """

    def place(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = Path(*_normal(folder / target))
        if str(path) in ROOT_PAGES:
            return f"[{words}]({ROOT_PAGES[str(path)]}{anchor})"
        if path.parts[:1] == ("docs",) and (docs / Path(*path.parts[1:])).exists():
            # Pages of the root have their place in the site beside the pages of docs/.
            return f"[{words}]({os.path.relpath(path, Path('docs') if folder == Path() else folder)}{anchor})"
        if (ROOT / path).exists():
            return words if f"`{path}`" in words or str(path) in words else f"{words} (`{path}`)"
        return found[0]  # the strict build names it

    return _LINK.sub(place, text)


def _normal(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return parts
