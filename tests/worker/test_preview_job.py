"""The deployed entry `worker.gpu` with its own engines: a still portrait becomes a talking clip."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from jobs.models import EvaluationCurves, JobStatus
from jobs.names import curves_key
from retalking_core.evaluation.metrics import available_metrics
from tests.media.clips import make_png, make_wav
from tests.worker.conftest import Stack, running
from worker.translation import metric_names


def test_a_portrait_is_rendered(stack: Stack, tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="the astronaut portrait comes with scikit-image")
    face = make_png(tmp_path / "face.png", data.astronaut()[:256, 100:356].copy())
    speech = make_wav(tmp_path / "speech.wav", seconds=1.2)
    with running("worker.gpu", stack, tmp_path / "worker.log"):
        (card,) = stack.store.workers.live()
        assert "preview" in [engine.name for engine in card.engines]
        assert card.metrics == metric_names()
        job = stack.finish(stack.submit(video=face, audio=speech, evaluate=None, fps=20), timeout_s=90)
        assert job.status is JobStatus.SUCCEEDED, job.error
        refused = stack.finish(stack.submit(video=face, audio=speech, upper_face="angry"), timeout_s=60)
    assert refused.error is not None
    assert refused.error.code == "unsupported_option"
    assert job.render is not None
    assert job.render.engine == "preview"
    assert job.result is not None
    assert job.result.frames == 24
    assert abs(job.result.duration_s - 1.2) <= 1 / 20
    assert job.evaluation is not None
    assert [metric.name for metric in job.evaluation] == available_metrics(None)
    assert all(metric.value is not None or metric.reason for metric in job.evaluation)
    stack.objects.fetch(job.result.key, tmp_path / "result.mp4")
    with av.open(str(tmp_path / "result.mp4")) as result:
        assert sum(1 for _ in result.decode(video=0)) == 24
    curves = EvaluationCurves.model_validate_json(b"".join(stack.objects.read(curves_key(job.result.key))))
    assert curves.fps == 20
    # A still picture has one frame that SSIM, which pairs frames by number, can compare.
    assert [len(curve) for curve in (curves.mouth_opening, curves.speech_level, curves.ssim)] == [24, 24, 1]
    assert any(value for value in curves.mouth_opening)
    assert curves.sync == {}  # nothing stands in for SyncNet where its checkpoint is not there
    stages = [event.stage for event in stack.store.jobs.events(job.id, after=None) if event.event == "job.progress"]
    assert list(dict.fromkeys(stages)) == ["fetch", "analyze", "synthesize", "evaluate", "publish"]
