"""`retalking weights`, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from cli.weights import app
from retalking_core.errors import WeightsError
from retalking_core.weights.fetching import Fetcher
from retalking_core.weights.synthesis import synthetic_state_dict
from retalking_core.weights.table import WEIGHT_FILES, read_lock
from tests.networks.mirror import serve, to_bytes


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching falls back to publishers and mirrors: a proxy that refuses connections stands before them."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    hasty = partial(Fetcher, sleep=lambda _seconds: None)
    monkeypatch.setattr("retalking_core.weights.fetching.Fetcher", hasty)


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200", **environment})


def test_list_shows_every_file_with_its_license(tmp_path: Path) -> None:
    result = run("list", "--dir", tmp_path)
    assert result.exit_code == 0
    for entry in WEIGHT_FILES.values():
        assert entry.file in result.output
        assert entry.license.split(";")[0] in result.output


def test_synthesize_then_verify(tmp_path: Path) -> None:
    written = run("synthesize", tmp_path, "--seed", "7", "--only", "ganimation")
    assert written.exit_code == 0, written.output
    assert "SYNTHETIC" in written.output
    verified = run("verify", "ganimation", "--dir", tmp_path)
    assert verified.exit_code == 0, verified.output
    assert "valid, SYNTHETIC" in verified.output


def test_synthesize_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "30_net_gen.pth").write_bytes(b"trained")
    result = run("synthesize", tmp_path, "--only", "ganimation")
    assert result.exit_code == 1
    assert (tmp_path / "30_net_gen.pth").read_bytes() == b"trained"


def test_verify_names_what_is_wrong_and_fails(tmp_path: Path) -> None:
    (tmp_path / "30_net_gen.pth").write_bytes(b"<html>")
    result = run("verify", "--dir", tmp_path)
    assert result.exit_code == 1
    assert "weights_wrong_file" in result.output
    assert result.output.count("weights_missing") >= len(WEIGHT_FILES) - 1


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_fetch_from_a_mirror(scheme: str, tmp_path: Path) -> None:
    with serve(to_bytes(synthetic_state_dict("ganimation", 1))) as mirror:
        mirror.break_after = [5_000_000]
        endpoint = mirror.url.removesuffix("/weights")
        url = mirror.url if scheme == "http" else "s3://bucket/weights"
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}
        result = run(
            "fetch",
            "ganimation",
            "--yes",
            "--dir",
            tmp_path,
            RETALKING_WEIGHTS_URL=url,
            AWS_ENDPOINT_URL=endpoint,
            **keys,
        )
        assert result.exit_code == 0, result.output
        assert (tmp_path / "30_net_gen.pth").read_bytes() == mirror.body
        bucket = "" if scheme == "http" else "/bucket"
        assert mirror.requests[0] == (f"{bucket}/weights/30_net_gen.pth", None)
        assert mirror.requests[-1][1] == "bytes=5000000-"
    assert read_lock(tmp_path)["30_net_gen.pth"].source == f"{url}/30_net_gen.pth"


def test_fetch_shows_the_licenses_and_needs_an_answer(tmp_path: Path) -> None:
    with serve(to_bytes(synthetic_state_dict("ganimation", 1))) as mirror:
        arguments = ("fetch", "ganimation", "--dir", tmp_path, "--url", mirror.url)
        result = run(*arguments)
        assert result.exit_code == 2
        assert WEIGHT_FILES["ganimation"].license in result.output
        assert "pass --yes" in result.output
        assert mirror.requests == []
        assert run(*arguments, "--yes").exit_code == 0
        assert run(*arguments).exit_code == 0, "nothing to fetch, nothing to accept"


def test_list_says_what_each_digest_is_compared_with(tmp_path: Path) -> None:
    with serve(to_bytes(synthetic_state_dict("ganimation", 1))) as mirror:
        assert run("fetch", "ganimation", "--yes", "--dir", tmp_path, "--url", mirror.url).exit_code == 0
    lines = {
        line.split("│")[1].strip(): line for line in run("list", "--dir", tmp_path).output.splitlines() if "│" in line
    }
    assert "pinned (10 sources)" in lines["gfpgan"]
    assert "trusted on first use" in lines["dnet"]
    assert "locked since the first fetch" in lines["ganimation"]


def test_verify_lists_extra_keys(tmp_path: Path) -> None:
    state = synthetic_state_dict("ganimation", 1) | {f"noises.noise{i}": torch.zeros(1) for i in range(7)}
    torch.save(state, tmp_path / "30_net_gen.pth")
    result = run("verify", "ganimation", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "30_net_gen.pth: 7 extra keys ignored (noises.noise0" in result.output
    assert "and 2 more" in result.output


def test_a_digest_to_accept_has_to_be_one(tmp_path: Path) -> None:
    assert run("fetch", "dnet", "--yes", "--accept-digest", "abc", "--dir", tmp_path).exit_code == 2


def test_fetch_says_what_it_could_not_get(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/weights"  # the discard port: refused at once
    result = run("fetch", "dnet", "--yes", "--dir", tmp_path, RETALKING_WEIGHTS_URL=nobody)
    assert result.exit_code == 1
    assert "weights_unreachable" in result.output
    assert "RETALKING_WEIGHTS_URL" in result.output


def test_the_command_line_does_not_import_torch() -> None:
    code = "import sys, cli.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    assert run("verify", "resnet", "--dir", tmp_path).exit_code == 2


def test_the_page_shows_the_same_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text()
    for entry in WEIGHT_FILES.values():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{entry.name}` |"))
        for cell in (entry.file, *entry.aliases, entry.used_for, entry.publisher, entry.license):
            assert cell in line
    for error in WeightsError.__subclasses__():
        assert f"| `{error.code}` |" in page
