"""Two speakers in a split job: two workers, each with its own process, draw segments of one result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from jobs.models import InputRef, JobRequest, JobSegment, JobSpec, JobStatus
from jobs.names import input_key, new_job_id
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.lines import LineInput
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from retalking_core.options import RenderOptions, SoundOptions
from retalking_core.progress import ignore_progress
from tests.media.dialogs import Dialog, make_dialog
from tests.worker.conftest import Clips, Stack, make_stack, running

SECONDS = 10.4  # 260 frames: the second segment begins at frame 240, while both speak
LEFT_S, RIGHT_S = (8.2, 9.9), (9.0, 10.3)


@pytest.fixture(scope="module")
def dialog(tmp_path_factory: pytest.TempPathFactory) -> Dialog:
    return make_dialog(tmp_path_factory.mktemp("dialog"), SECONDS)


@pytest.fixture(scope="module")
def stack(redis_url: str, dialog: Dialog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers with the preview engine, as deployed."""
    folder = tmp_path_factory.mktemp("split_dialog")
    settings = {"RETALKING_SPLIT_MIN_S": "5", "RETALKING_LEASE_S": "20"}
    made = make_stack(redis_url, folder, Clips(dialog.video, dialog.first), **settings)
    with ExitStack() as workers:
        for number in range(2):
            workers.enter_context(running("worker.gpu", made, folder / f"worker-{number}.log"))
        yield made


def test_two_speakers_in_a_split_job_are_drawn_as_in_one_piece(stack: Stack, dialog: Dialog, tmp_path: Path) -> None:
    job_id, sound = new_job_id(), SoundOptions(mix="segments_only")
    files = {"video": dialog.video, "audio_1": dialog.first, "audio_2": dialog.second}
    refs = {part: InputRef(kind="object", key=input_key(job_id, part)) for part in files}
    for part, path in files.items():
        stack.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
    segments = [
        JobSegment(audio="audio_1", start_s=LEFT_S[0], end_s=LEFT_S[1], face="left_most"),
        JobSegment(audio="audio_2", start_s=RIGHT_S[0], end_s=RIGHT_S[1], face="right_most"),
    ]
    request = JobRequest(engine="preview", sound=sound, evaluate=["mouth_target_correlation", "psnr_outside_face"])
    stack.store.jobs.create(job_id, JobSpec.of(refs, segments, request), max_attempts=3)
    stack.send(job_id)
    lines = [
        LineInput(dialog.first, *LEFT_S, face="left_most"),
        LineInput(dialog.second, *RIGHT_S, face="right_most"),
    ]
    whole, joined = tmp_path / "whole.mp4", tmp_path / "joined.mp4"
    report = render_files(PreviewEngine(), dialog.video, lines, whole, RenderOptions(sound=sound), ignore_progress)

    job = stack.finish(job_id, timeout_s=240)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.render is not None
    assert job.result is not None
    notes = {note.code: note.sentence for note in job.render.notes}
    assert "2 segments by" in notes["split_render"]
    stack.objects.fetch(job.result.key, joined)
    one, other = (list(open_video(path, DEFAULT_LIMITS).frames()) for path in (whole, joined))
    assert len(one) == len(other) == round(SECONDS * 25)
    for first, second in zip(one, other, strict=True):
        for plane in ("y", "u", "v"):
            assert np.array_equal(getattr(first, plane), getattr(second, plane)), first.index
    with read_speech(whole, DEFAULT_LIMITS) as first, read_speech(joined, DEFAULT_LIMITS) as second:
        assert np.array_equal(first.waveform.samples, second.waveform.samples)
    assert [(each.start_s, each.end_s) for each in job.render.segments] == [LEFT_S, RIGHT_S]
    for drawn, told in zip(report.lines, job.render.segments, strict=True):
        assert told.face_box == pytest.approx(np.median(drawn.face_boxes, axis=0))
    values = {metric.name: metric for metric in job.evaluation or []}
    assert all((each.value or 0) > 0.6 for each in values["mouth_target_correlation"].segments)
    assert len(values["mouth_target_correlation"].segments) == 2
    assert values["psnr_outside_face"].value is not None
