"""`make docs`: the site builds strictly, is whole, and makes a reader's browser load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import validate

from docs.making.hooks import relink
from jobs.errors import ERROR_CODES
from retalking_core.vocabulary.options import JobOptions

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """loaded: what a browser fetches by itself. links: what a reader may follow. ids: where anchors lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if "src" in values:
            self.loaded.add(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loaded.add(values["href"])
        if tag == "a" and "href" in values:
            self.links.add(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.name: Page(path) for path in site.glob("*.html")}


def test_every_page_is_there(pages: dict[str, Page]) -> None:
    written = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert written | {"architecture.html", "changelog.html", "contributing.html"} <= set(pages)


def test_links_and_anchors_lead_somewhere(site: Path, pages: dict[str, Page]) -> None:
    """MkDocs checks Markdown; this checks what came out, menus and generated tables too."""
    missing = []
    for name, page in pages.items():
        if name == "404.html":  # served at any address: its links are absolute
            continue
        for link in page.links | page.loaded:
            target, _, anchor = link.partition("#")
            if re.match(r"(https?|mailto|data):", target):
                continue
            other = target or name
            if not (site / other).exists() or (anchor and other in pages and anchor not in pages[other].ids):
                missing.append((name, link))
    assert not missing


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    foreign = {link for page in pages.values() for link in page.loaded if re.match(r"(https?:)?//", link)}
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s+)[\"']?(https?:)?//", sheet.read_text(encoding="utf-8"))


def test_what_the_code_knows_is_told(site: Path, pages: dict[str, Page]) -> None:
    assert set(ERROR_CODES) <= pages["troubleshooting.html"].ids
    assert set(JobOptions.model_fields) <= pages["options.html"].ids
    told = (site / "http-reference.html").read_text(encoding="utf-8")
    for call in ("POST /v1/jobs", "GET /v1/jobs/{job_id}/events", "POST /v1/uploads", "GET /metrics"):
        assert f"<code>{call}</code>" in told
    assert "images/options/length_mode.jpg" in pages["options.html"].loaded


def test_links_of_the_repository_are_made_to_fit() -> None:
    docs = ROOT / "docs"
    text = "[a](../ARCHITECTURE.md) [b](http.md#errors) [c](../docker-compose.yml) [d](https://x.y) [e](gone.md)"
    assert relink(text, Path("docs"), docs) == (
        "[a](architecture.md) [b](http.md#errors) c (`docker-compose.yml`) [d](https://x.y) [e](gone.md)"
    )
    assert relink("[a](docs/http.md)", Path(), docs) == "[a](http.md)"


@pytest.mark.parametrize("form", ["bug", "wish", "config"])
def test_issue_forms_are_valid(form: str) -> None:
    schema = get_builtin_schema(f"vendor.github-issue-{'config' if form == 'config' else 'forms'}")
    validate(yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text()), schema)
