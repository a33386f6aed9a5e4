"""A neural engine whose weight files hold code: the worker names the file, runs nothing, and renders nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES
from tests.worker.conftest import Stack, running


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


@pytest.fixture
def hostile_models(tmp_path: Path, marker: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ENGINE_WEIGHTS:
        torch.save({"state_dict": Trap(marker), "params_ema": Trap(marker)}, folder / WEIGHT_FILES[name].file)
    return folder


def test_the_trap_is_real(marker: Path) -> None:
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()


def test_jobs_of_a_worker_that_is_set_to_the_neural_engine_end_with_the_reason(
    stack: Stack, hostile_models: Path, marker: Path, tmp_path: Path
) -> None:
    """Also those that waited before the worker started. Such a worker once ended, and its jobs stayed in the queue."""
    waiting = [stack.submit(engine=asked) for asked in ("videoretalking", "auto")]
    settings = {"RETALKING_ENGINE": "videoretalking", "RETALKING_MODELS_DIR": str(hostile_models)}
    with running("worker.gpu", stack, tmp_path / "worker.log", **settings) as process:
        jobs = [stack.finish(job_id, timeout_s=60) for job_id in waiting]
        (card,) = stack.store.workers.live()
        preview = stack.finish(stack.submit(engine="preview"), timeout_s=60)
    for job in jobs:
        assert job.error is not None
        assert job.error.code == "engine_unavailable"
        for text in (job.error.message, card.unavailable["videoretalking"]):
            assert ".pth is refused: " in text
            assert "weights_unsafe" in text
            assert "retalking weights verify" in text
    assert process.says("RETALKING_ENGINE=videoretalking cannot be offered")
    assert preview.error is None or preview.error.code != "engine_unavailable"
    assert not marker.exists()


def test_a_job_for_the_neural_engine_is_refused_by_a_worker_without_it(
    stack: Stack, hostile_models: Path, marker: Path, tmp_path: Path
) -> None:
    with running("worker.gpu", stack, tmp_path / "worker.log", RETALKING_MODELS_DIR=str(hostile_models)):
        job = stack.finish(stack.submit(engine="videoretalking"), timeout_s=60)
    assert job.error is not None
    assert job.error.code == "engine_unavailable"
    assert not marker.exists()
