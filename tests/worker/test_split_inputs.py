"""Jobs that are split although the header of their speech states another length than the speech has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from jobs.models import JobStatus
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from tests.faces.clips import portrait, write_clip
from tests.media.corpus import Sound, utterance, write_file
from tests.media.test_corpus import lag_s
from tests.worker.conftest import Clips, Stack, make_stack, running

SPOKEN_S = 12.0


def mp3_without_length(folder: Path) -> Path:
    """Begins with silence, so that FFmpeg guesses from the bit rate that it is far longer."""
    samples = np.concatenate([np.zeros(48_000, np.float32), utterance(SPOKEN_S - 1, 48_000)])
    sound = Sound(samples[None], codec="libmp3lame", options={"global_quality": "0", "flags": "+qscale"})
    return write_file(folder / "pipe.mp3", [sound], options={"write_xing": "0"})


def chained_ogg(folder: Path) -> Path:
    """Two files, one after the other, of which FFmpeg knows the length of the last."""
    samples = utterance(SPOKEN_S, 48_000)
    halves = (samples[: 48_000 * 8], samples[48_000 * 8 :])
    parts = [
        write_file(folder / f"{number}.ogg", [Sound(half[None], codec="libopus")]) for number, half in enumerate(halves)
    ]
    path = folder / "chained.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers with the preview engine, as deployed."""
    folder = tmp_path_factory.mktemp("split_inputs")
    face = write_clip(folder / "face.mp4", [portrait(130, 320, 320, 160, 150)] * 25)
    settings = {"RETALKING_SPLIT_MIN_S": "5", "RETALKING_LEASE_S": "20"}
    made = make_stack(redis_url, folder, Clips(face, face), **settings)
    with ExitStack() as workers:
        for number in range(2):
            workers.enter_context(running("worker.gpu", made, folder / f"worker-{number}.log"))
        yield made


@pytest.mark.parametrize("make", [mp3_without_length, chained_ogg])
def test_a_split_job_has_the_length_of_what_is_decoded(
    make: Callable[[Path], Path], stack: Stack, tmp_path: Path
) -> None:
    audio = make(tmp_path)
    with av.open(str(audio)) as media:
        stated = media.streams.audio[0].duration
        stated_s = float(stated * media.streams.audio[0].time_base) if stated else media.duration / 1e6
    assert abs(stated_s - SPOKEN_S) > 2, "the header lies"
    job = stack.finish(stack.submit(audio=audio, engine="preview"), timeout_s=180)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.render is not None
    assert job.result is not None
    notes = {note.code: note.sentence for note in job.render.notes}
    assert "2 segments by 2 workers" in notes["split_render"]
    stack.objects.fetch(job.result.key, result := tmp_path / "result.mp4")
    # LAME's delay at 48 kHz, which the file does not state and no player removes
    delay_s = 1105 / 48_000 if make is mp3_without_length else 0.0
    assert abs(open_video(result, DEFAULT_LIMITS).info.frame_count - (SPOKEN_S + delay_s) * 25) <= 1
    expected = utterance(SPOKEN_S - 1) if make is mp3_without_length else utterance(SPOKEN_S)
    with read_speech(result, DEFAULT_LIMITS) as speech:
        late_s, likeness = lag_s(speech.waveform.samples, expected)
    assert abs(late_s - delay_s - (SPOKEN_S - len(expected) / 16_000)) < 0.002
    assert likeness > 0.9
