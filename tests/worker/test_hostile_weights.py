"""A neural engine whose weight files hold code: the worker names the file, runs nothing, and renders nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.models import JobStatus
from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES
from tests.services import wait_until
from tests.worker.conftest import Stack, WorkerProcess, running


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


def test_a_worker_of_the_neural_engine_names_the_file_and_takes_no_job(
    stack: Stack, hostile_models: Path, marker: Path, tmp_path: Path
) -> None:
    job_id = stack.submit(engine="videoretalking")
    settings = {"RETALKING_ENGINE": "videoretalking", "RETALKING_MODELS_DIR": str(hostile_models)}
    process = WorkerProcess("worker.gpu", stack, tmp_path / "worker.log", **settings)
    try:
        wait_until(lambda: process.log.read_text().count("is refused") > 1, 120, what="the refusal, twice")
        assert ".pth is refused: " in process.log.read_text()
        assert stack.store.workers.live() == []
        assert stack.store.jobs.get(job_id).status is JobStatus.QUEUED
    finally:
        process.stop()
    assert not marker.exists()
    stack.store.jobs.request_cancel(job_id, retention_s=60)


def test_a_job_for_the_neural_engine_is_refused_by_a_worker_without_it(
    stack: Stack, hostile_models: Path, marker: Path, tmp_path: Path
) -> None:
    with running("worker.gpu", stack, tmp_path / "worker.log", RETALKING_MODELS_DIR=str(hostile_models)):
        job = stack.finish(stack.submit(engine="videoretalking"), timeout_s=60)
    assert job.error is not None
    assert job.error.code == "engine_unavailable"
    assert not marker.exists()
