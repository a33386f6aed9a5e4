"""The main job through HTTP, on real clips and on the portrait that scikit-image carries."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from bench.speaker_scenes import write_scene
from cli.demo_input import write_portrait
from tests.e2e.conftest import Service
from tests.faces.clips import backdrop, place_face
from tests.media import clips

pytestmark = pytest.mark.e2e


def _durations_s(path: Path) -> tuple[float, float, float]:
    """Video, audio, and one frame's time."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        return (
            float(video.duration * video.time_base),
            float(audio.duration * audio.time_base),
            float(1 / video.average_rate),
        )


def _metrics(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in job["evaluation"]}


@pytest.mark.media
def test_a_real_clip_speaks(
    service: Service, succeed: Callable[..., dict[str, Any]], media_dir: Path, tmp_path: Path
) -> None:
    job = succeed(media_dir / "1.mp4", media_dir / "1.wav")
    assert job["engine"] == "preview"
    assert job["render"]["face_coverage"] == pytest.approx(1.0)
    video_s, audio_s, frame_s = _durations_s(service.download(job["id"], tmp_path / "result.mp4"))
    assert abs(video_s - audio_s) <= frame_s
    assert abs(video_s - 221184 / 44100) <= frame_s  # as long as the speech
    told = _metrics(job)
    assert told["mouth_target_correlation"]["value"] >= 0.8
    assert abs(told["mouth_target_correlation"]["detail"]["lag_frames"]) <= 1
    assert told["av_duration_difference"]["value"] <= 1


def test_a_still_portrait_speaks(service: Service, succeed: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    speech = clips.make_wav(tmp_path / "speech.wav", seconds=1.5)
    job = succeed(write_portrait(tmp_path), speech, metadata='{"order": 7}')
    assert job["metadata"] == {"order": 7}
    assert job["progress"] == 1
    video_s, audio_s, frame_s = _durations_s(service.download(job["id"], tmp_path / "result.mp4"))
    assert abs(video_s - audio_s) <= frame_s
    assert abs(video_s - 1.5) <= frame_s


def test_a_finished_job_is_deleted_with_its_files(
    service: Service, succeed: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    job = succeed(write_portrait(tmp_path), clips.make_wav(tmp_path / "speech.wav", seconds=0.5))
    assert list(service.data_dir.rglob(f"*{job['id']}*"))
    assert service.client.delete(f"/jobs/{job['id']}").status_code == 204
    assert service.client.get(f"/jobs/{job['id']}").status_code == 404
    assert not [path for path in service.data_dir.rglob(f"*{job['id']}*") if path.is_file()]
    assert not [path for path in service.data_dir.rglob(f"*{job['id']}*/**/*") if path.is_file()]


def test_a_running_job_is_canceled(service: Service, tmp_path: Path) -> None:
    answer = service.submit(write_portrait(tmp_path), clips.make_wav(tmp_path / "long.wav", seconds=120))
    job_id = answer.json()["id"]
    assert service.client.delete(f"/jobs/{job_id}").status_code == 202
    assert service.finish(job_id, timeout_s=30)["status"] == "canceled"


def test_the_events_tell_the_whole_story(service: Service, tmp_path: Path) -> None:
    answer = service.submit(write_portrait(tmp_path), clips.make_wav(tmp_path / "speech.wav", seconds=0.5))
    job_id = answer.json()["id"]
    with service.client.stream("GET", f"/jobs/{job_id}/events", timeout=60) as stream:
        names = [line.removeprefix("event:").strip() for line in stream.iter_lines() if line.startswith("event:")]
    assert names[0] == "job.queued"
    assert "job.started" in names
    assert names[-1] == "job.succeeded"


def test_the_people_of_a_video_are_found_and_one_of_them_is_rendered(
    service: Service, succeed: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    picture = backdrop(640, 300)
    place_face(picture, 110, 160, 130)
    place_face(picture, 90, 480, 150)
    video = write_scene(tmp_path / "two.mp4", [picture] * 25, None)
    with video.open("rb") as file:
        answer = service.client.post("/videos/analyze", files={"video": file})
    assert answer.status_code == 202, answer.text
    job = service.finish(answer.json()["id"])
    assert job["status"] == "succeeded", job["error"]
    found = service.client.get(f"/jobs/{job['id']}/analysis").json()
    assert [person["track"] for person in found["people"]] == ["person_1", "person_2"]
    assert found["voice"] is None
    thumbnail = service.client.get(f"/jobs/{job['id']}/people/person_2.jpg")
    with Image.open(io.BytesIO(thumbnail.content)) as portrait:
        assert portrait.format == "JPEG"
        assert max(portrait.size) <= 160
    speech = clips.make_wav(tmp_path / "speech.wav", seconds=1.0)
    done = succeed(video, speech, face='{"track": "person_2"}', evaluate="[]")
    result = service.download(done["id"], tmp_path / "result.mp4")
    with av.open(str(result)) as media, av.open(str(video)) as source:
        pairs = list(zip(media.decode(video=0), source.decode(video=0), strict=False))
    changed = np.mean(
        [np.abs(a.to_ndarray(format="gray").astype(float) - b.to_ndarray(format="gray")) for a, b in pairs], axis=0
    )
    assert changed[:, 320:].max() > 3 * changed[:, :320].max()
    wrong = service.submit(video, speech, face='{"track": "person_9"}')
    failed = service.finish(wrong.json()["id"])
    assert failed["error"]["code"] == "face_not_found"
    assert "person_1, person_2" in failed["error"]["message"]
