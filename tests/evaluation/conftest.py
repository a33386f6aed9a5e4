"""Checkpoints of generated weights, written once a run: SyncNet and ArcFace (230 MB)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.weights.synthesis import synthesize

SEED = 1

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    synthesize(folder, SEED, ["syncnet", "arcface"])
    return folder


@pytest.fixture(scope="session")
def models(weights: Path) -> EvaluationModels:
    """Both networks, loaded once."""
    return EvaluationModels(weights, "cpu")
