"""The neural engine through HTTP: a job, and a second one on the same video that finds its face in the cache.

With the weight files of RETALKING_WEIGHTS_DIR, else with generated ones. On a GPU all frames of the clip are made; two
CPU cores take 10 s to a minute a frame, so there the speech is one frame long.
"""

from __future__ import annotations

import argparse
import os
import wave
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest
from scipy.io import savemat

from retalking_core.digests import file_sha256
from retalking_core.weights.synthesis import synthesize
from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES, LockedFile, record
from tests.e2e.conftest import Service, running_service

WEIGHTS = os.environ.get("RETALKING_WEIGHTS_DIR", "")
CPU_FRAME_S, LOADED_S = 900.0, 300.0

pytestmark = [pytest.mark.e2e, pytest.mark.media, pytest.mark.timeout(3 * CPU_FRAME_S)]


@pytest.fixture(scope="module")
def weights(media_dir: Path) -> Iterator[Path]:
    """Generated ones take 2.2 GB, and are not left for pytest to keep."""
    if WEIGHTS:
        yield Path(WEIGHTS)
        return
    with TemporaryDirectory(prefix="retalking-weights-") as folder:
        synthesize(Path(folder), 1, ENGINE_WEIGHTS)
        add_what_training_leaves(Path(folder))
        yield Path(folder)


def add_what_training_leaves(folder: Path) -> None:
    """Brings files to what the official ones look like: legacy format, neighbors, extra keys, optimizer states, objects
    of other packages; and adds the expression templates."""
    import torch

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    training = {
        "args": argparse.Namespace(lr=np.float64(1e-4)),
        "opt": optimizer.state_dict(),
        "by_name": defaultdict(list, a=[1]),
    }
    for name in ("dnet", "enet", "deep3d", "ganimation"):
        entry = WEIGHT_FILES[name]
        path = folder / entry.file
        content = torch.load(path, weights_only=True)
        if name != "ganimation":
            content |= training
        if name == "dnet":
            content["net_G"] = content["net_G_ema"]
        if entry.layout.extra_keys == "ignore":
            wanted = content[entry.layout.nesting[0]] if entry.layout.nesting[0] else content
            wanted[entry.layout.wrapped_key("noises.noise0")] = torch.zeros(1, 1, 4, 4)
        torch.save(content, path, _use_new_zipfile_serialization=name == "enet")
        record(folder, path.name, LockedFile(file_sha256(path), path.stat().st_size, "made like the official file"))
    savemat(
        folder / "expression.mat", {"expression_center": np.full((1, 64), 0.1), "expression_mouth": np.ones((1, 64))}
    )


@pytest.fixture(scope="module")
def neural(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("neural")
    # A first frame takes longer here than a render may otherwise be silent.
    settings = {"RETALKING_ENGINE": "videoretalking", "RETALKING_MODELS_DIR": str(weights), "RETALKING_STALL_S": "900"}
    with running_service(folder, LOADED_S, **settings) as service:
        yield service


@pytest.fixture(scope="module")
def speech(media_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it where there is a GPU, else so much as one frame takes."""
    import torch

    if torch.cuda.is_available():
        return media_dir / "1.wav"
    short = tmp_path_factory.mktemp("speech") / "short.wav"
    with wave.open(str(media_dir / "1.wav")) as whole, wave.open(str(short), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(round(whole.getframerate() / 22.131)))
    return short


def render(neural: Service, video: Path, speech: Path) -> dict[str, Any]:
    answer = neural.submit(video, speech, engine="videoretalking", evaluate="[]")
    assert answer.status_code == 202, answer.text
    job = neural.finish(answer.json()["id"], timeout_s=CPU_FRAME_S)
    assert job["status"] == "succeeded", job["error"]
    return job


def test_a_clip_speaks_and_its_face_is_remembered(
    neural: Service, media_dir: Path, speech: Path, tmp_path: Path
) -> None:
    jobs = [render(neural, media_dir / "1.mp4", speech) for _ in range(2)]
    assert [job["engine"] for job in jobs] == ["videoretalking"] * 2
    assert [job["render"]["face_cache"] for job in jobs] == ["miss", "hit"]
    codes = [[note["code"] for note in job["render"]["notes"]] for job in jobs]
    assert WEIGHTS or all({"synthetic_weights", "expression_template"} <= set(found) for found in codes), codes
    results = [neural.download(job["id"], tmp_path / f"{k}.mp4") for k, job in enumerate(jobs)]
    with av.open(str(results[0])) as container, wave.open(str(speech)) as sound:
        video = container.streams.video[0]
        assert float(video.average_rate) == pytest.approx(22.131, abs=0.001)
        assert abs(float(video.duration * video.time_base) - sound.getnframes() / sound.getframerate()) <= 1 / 22.131
        assert len(container.streams.audio) == 1
    first, second = (_luma(path) for path in results)
    assert len(first) == len(second) == jobs[0]["result"]["frames"]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _luma(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]
