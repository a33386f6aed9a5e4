"""What of the trials can be checked without root and minutes: `make try-images` and `make try-fresh` are the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy.trial.fresh import packages_of
from deploy.trial.images import make_variables
from deploy.trial.podman import TrialError

ROOT = Path(__file__).resolve().parents[2]


def test_the_fresh_root_gets_what_the_readme_names() -> None:
    packages = packages_of((ROOT / "README.md").read_text("utf-8"))
    assert {"make", "python3-venv"} <= set(packages)
    with pytest.raises(TrialError, match=r"README\.md"):
        packages_of("Nothing is named here.")


def test_the_trial_replaces_only_images_from_outside() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    override = (ROOT / "deploy" / "trial" / "compose.yaml").read_text()
    override = override.replace("!reset null", "").replace("!override", "")
    changed = {name for name, service in yaml.safe_load(override)["services"].items() if "image" in service}
    assert changed == {name for name, service in services.items() if "build" not in service}


def test_every_secret_without_a_default_gets_a_value() -> None:
    required = set(re.findall(r"(?<!\$)\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert required <= set(make_variables())


def test_every_image_from_outside_is_pinned_by_digest() -> None:
    texts = [
        (ROOT / "docker-compose.yml").read_text("utf-8"),
        *(path.read_text("utf-8") for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml")),
    ]
    images = set(re.findall(r"^\s*(?:- )?image: (\S+)", "\n".join(texts), re.MULTILINE))
    for name in ("Dockerfile.api", "Dockerfile.gpu"):
        images |= set(re.findall(r"^ARG BASE=(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        assert set(re.findall(r"^FROM (\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE)) == {"${BASE}"}
    outside = {image for image in images if not image.startswith("retalking-")}
    assert all(re.fullmatch(r"[a-z/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image) for image in outside), outside
    # The same Redis everywhere, and one base for both images
    assert sorted(image.partition(":")[0] for image in outside) == ["chrislusf/seaweedfs", "debian", "redis"]
