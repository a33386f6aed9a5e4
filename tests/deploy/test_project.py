"""The files around the code: commands, generated pages, promises of the README."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

from jobs.settings import DEFAULT_RETRIES_S

ROOT = Path(__file__).resolve().parents[2]


def plan(target: str) -> str:
    """The commands that `make` would run, were nothing there yet."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ")


def test_the_demo_installs_only_what_it_needs() -> None:
    commands = plan("demo")
    assert "-m venv .venv" in commands
    assert "--require-hashes --requirement locks/embedded.txt" in commands
    assert "locks/all.txt" not in commands
    assert "retalking demo --out" in commands


def test_the_test_target_checks_everything() -> None:
    commands = plan("test")
    for step in (
        "-m venv .venv",
        "locks/all.txt",
        "ruff check .",
        "ruff format --check .",
        "lint-imports",
        "-m checks.branch_coverage pytest",
    ):
        assert step in commands
    assert commands.index("locks/all.txt") < commands.index("-m checks.branch_coverage pytest")


def test_nothing_is_compiled() -> None:
    installs = [line for line in plan("test").splitlines() if "pip install" in line]
    assert installs
    assert all("--only-binary :all:" in line for line in installs)


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_the_generated_pages_are_current() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for path, text in reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: run `make docs-reference`"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", [ROOT / "ARCHITECTURE.md", *pages()], ids=lambda page: page.name)
def test_files_of_the_code_that_a_page_names_exist(page: Path) -> None:
    """From the root of the repository, or within the library."""
    names = re.findall(r"`([a-z_]+/[a-zA-Z0-9_/]+\.(?:py|lua))`", page.read_text(encoding="utf-8"))
    missing = [name for name in names if not any((root / name).exists() for root in (ROOT, ROOT / "retalking_core"))]
    assert not missing


def test_the_retry_schedule_of_the_webhook_page_is_that_of_the_settings() -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| pause before it |")]
    first, *pauses = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    units = {"s": 1, "min": 60, "h": 3600}
    found = [int(number) * units[unit] for number, unit in (pause.split() for pause in pauses)]
    assert (first, tuple(found)) == ("none", DEFAULT_RETRIES_S)
    least_h = sum(DEFAULT_RETRIES_S) / 3600
    assert f"tried for {least_h:.1f} to {1.1 * least_h:.0f} hours" in page


def test_the_webhook_example_of_the_page_works() -> None:
    """The Python of docs/webhooks.md, executed: it takes a signed event and refuses an altered one."""
    from datetime import UTC, datetime

    from standardwebhooks import Webhook

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8"), re.DOTALL)
    example: dict[str, object] = {}
    secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="
    exec(blocks[0].replace('os.environ["RETALKING_WEBHOOK_SECRET"]', repr(secret)), example)
    read_event = example["read_event"]
    body, at = '{"type":"job.succeeded","timestamp":"2025-01-01T00:00:00Z","data":{"id":"job_1"}}', datetime.now(UTC)
    headers = {
        "webhook-id": "whd_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("whd_1", at, body),
    }
    assert read_event(body.encode(), headers)["data"]["id"] == "job_1"
    assert read_event(body.replace("job_1", "job_2").encode(), headers) is None
