"""Two people in one shot, a line for each, through HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.speech import read_speech
from tests.e2e.conftest import Service
from tests.media.dialogs import FPS, WIDTH, make_dialog, measure_result
from tests.preview.speech import talk

pytestmark = pytest.mark.e2e
LEFT_S, RIGHT_S = (0.4, 2.0), (1.4, 3.2)  # they overlap from 1.4 to 2 s
LENGTH_S = 4.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = make_dialog(tmp_path_factory.mktemp("scene"), LENGTH_S)
    return {"video": made.video, "anna": made.first, "ben": made.second}


def submit(service: Service, scene: dict[str, Path], segments: list[dict[str, Any]], **fields: str) -> dict[str, Any]:
    with scene["video"].open("rb") as video, scene["anna"].open("rb") as anna, scene["ben"].open("rb") as ben:
        files = {"video": ("scene.mp4", video), "anna": ("anna.wav", anna), "ben": ("ben.wav", ben)}
        named = {each["audio"] for each in segments}
        parts = {name: file for name, file in files.items() if name == "video" or name in named}
        answer = service.client.post("/v1/jobs/upload", files=parts, data={"segments": json.dumps(segments), **fields})
    assert answer.status_code == 202, answer.text
    return service.finish(answer.json()["id"])


def segment(start_s: float, audio: str = "anna", **more: Any) -> dict[str, Any]:
    return {"audio": audio, "start_s": start_s, **more}


def test_each_face_follows_its_own_speech_only(service: Service, tmp_path: Path) -> None:
    """In turn, then both at once. Without loss in the encoder: a pixel that differs was drawn."""
    dialog = make_dialog(tmp_path)
    audio = {dialog.first: "anna", dialog.second: "ben"}
    segments = [
        {"audio": audio[line.audio], "start_s": line.start_s, "end_s": line.end_s, "face": line.face}
        for line in dialog.lines
    ]
    scene = {"video": dialog.video, "anna": dialog.first, "ben": dialog.second}
    wanted = json.dumps(["mouth_speech_correlation"])
    job = submit(service, scene, segments, **{"output.crf": "0", "evaluate": wanted})
    assert job["status"] == "succeeded", job["error"]
    faces = measure_result(dialog, service.download(job["id"], tmp_path / "result.mp4"))
    for side, face in zip(("left", "right"), faces, strict=True):
        assert face.own >= 0.6, side
        assert face.other <= 0.2, side
        assert face.changed_in_silence == 0, side
        assert face.outside == 0
    scores = {each["name"]: each for each in service.client.get(f"/v1/jobs/{job['id']}/evaluation").json()["metrics"]}
    told = [each["value"] for each in scores["mouth_speech_correlation"]["segments"]]
    assert len(told) == 4
    assert min(told) >= 0.6


OWN_RATE_HZ = 48_000
LEAST_SNR_DB = 35
AT_S = (1.00003, 2.2)  # between two samples


@pytest.fixture(scope="module")
def sounding(scene: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.int16]]:
    """The scene with sound of its own as PCM of 16 bits, and its samples [n, 2]."""
    plain = np.interp(np.arange(round(LENGTH_S * OWN_RATE_HZ)) / 3, np.arange(64_000), talk(LENGTH_S).samples)
    samples = (np.stack([plain, 0.5 * plain], axis=1) * 16_000).astype(np.int16)
    path = tmp_path_factory.mktemp("sounding") / "scene.mkv"
    with av.open(str(scene["video"])) as silent, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(silent.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=OWN_RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = OWN_RATE_HZ
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        for packet in silent.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
    return path, samples


@pytest.mark.parametrize("container", ["mov", "mkv", "mp4"])
def test_the_sound_of_the_result(
    service: Service,
    scene: dict[str, Path],
    sounding: tuple[Path, NDArray[np.int16]],
    container: str,
    tmp_path: Path,
) -> None:
    """As decoded: the video's own outside the segment, to the bit as PCM; the speech at its sample."""
    video, own = sounding
    segments = [segment(AT_S[0], end_s=AT_S[1], face="left_most")]
    fields = {"sound.mix": "segments_only", "output.container": container, "evaluate": "[]"}
    job = submit(service, {**scene, "video": video}, segments, **fields)
    assert job["status"] == "succeeded", job["error"]
    with read_speech(service.download(job["id"], tmp_path / "result"), DEFAULT_LIMITS) as heard:
        assert heard.track is not None
        assert heard.track.codec == ("aac" if container == "mp4" else "pcm_s16le")
        decoded = np.concatenate(list(heard.sound.blocks(OWN_RATE_HZ)), axis=1).T
    with read_speech(scene["anna"], DEFAULT_LIMITS, rate_hz=OWN_RATE_HZ) as said:
        speech = np.concatenate(list(said.sound.blocks(OWN_RATE_HZ)), axis=1)[0]
    begin, end = (round(at_s * OWN_RATE_HZ) for at_s in AT_S)
    # A frame of AAC that begins in the segment shares its noise with what is beside it.
    shared = 2048 if container == "mp4" else 0
    for part in (slice(0, begin - shared), slice(end + shared, min(len(decoded), len(own)) - shared)):
        if container == "mp4":
            noise = decoded[part] - own[part] / 32768
            assert 10 * np.log10(np.square(own[part] / 32768).mean() / np.square(noise).mean()) > LEAST_SNR_DB
        else:
            assert np.array_equal(decoded[part] * 32768, own[part])
    inside = decoded[begin + 2400 : end - 2400, 0]
    lags = range(-40, 41)
    alike = [float(inside @ speech[2400 - lag : 2400 - lag + len(inside)]) for lag in lags]
    assert abs(lags[int(np.argmax(alike))]) <= 1


def luma_of(path: Path) -> NDArray[np.int16]:
    """i16 [frames, rows, columns]."""
    with av.open(str(path)) as media:
        return np.stack([frame.to_ndarray()[: frame.height] for frame in media.decode(video=0)]).astype(np.int16)


def test_each_face_moves_while_its_line_is_spoken(service: Service, scene: dict[str, Path], tmp_path: Path) -> None:
    segments = [
        {"audio": "anna", "start_s": LEFT_S[0], "end_s": LEFT_S[1], "face": "left_most"},
        {"audio": "ben", "start_s": RIGHT_S[0], "end_s": RIGHT_S[1], "face": "right_most", "audio_offset_s": 0.5},
    ]
    job = submit(service, scene, segments, **{"sound.mix": "over", "output.crf": "4"})
    assert job["status"] == "succeeded", job["error"]
    assert [each["audio"] for each in job["segments"]] == ["audio_1", "audio_2"]
    assert job["inputs"]["audio_2"]["audio_track"]["codec"] == "pcm_s16le"
    assert job["inputs"]["audio_2"]["duration_s"] > 1
    told = job["render"]["segments"]
    assert [(each["start_s"], each["end_s"]) for each in told] == [LEFT_S, RIGHT_S]
    assert all(each["face_coverage"] == 1 for each in told)
    assert told[0]["face_box"][2] < WIDTH / 2 < told[1]["face_box"][0]
    assert "original_sound_missing" in [note["code"] for note in job["render"]["notes"]]
    assert job["result"]["duration_s"] == pytest.approx(LENGTH_S, abs=0.04), "as long as the video"
    scores = {each["name"]: each for each in service.client.get(f"/v1/jobs/{job['id']}/evaluation").json()["metrics"]}
    follows = scores["mouth_speech_correlation"]
    assert (follows["value"], len(follows["segments"])) == (None, 2)
    assert "2 speak in this result" in follows["reason"]
    assert all(each["value"] >= 0.6 for each in follows["segments"]), "each face moves with its own speech"
    assert [each["value"] for each in scores["face_coverage"]["segments"]] == [1, 1]
    assert scores["psnr_outside_face"]["value"] > 40, "outside of both faces"
    assert scores["ssim"]["value"] > 0.5, "it is about the whole picture"

    before, after = luma_of(scene["video"]), luma_of(service.download(job["id"], tmp_path / "result.mp4"))
    changed = np.abs(after - before)
    halves = {"left": changed[:, :, : WIDTH // 2], "right": changed[:, :, WIDTH // 2 :]}
    times_s = np.arange(len(before)) / FPS
    for side, (start_s, end_s) in (("left", LEFT_S), ("right", RIGHT_S)):
        spoken = (times_s >= start_s) & (times_s < end_s)
        moved = halves[side].max(axis=(1, 2))
        assert moved[spoken].max() > 40, side
        assert moved[~spoken].max() < 15, f"{side}: only the codec changes what nobody speaks"


REFUTED: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "beyond the end": (
        [segment(0, end_s=1), segment(99)],
        "segment_out_of_range",
        "Segment 2 starts at 99 s, and the video ends at 4.000 s: start it before that, or send a longer video",
    ),
    "offset beyond the audio": (
        [segment(0, audio_offset_s=60)],
        "segment_offset_beyond_audio",
        "Segment 1 skips 60 s of a speech that is",
    ),
    "little left of the audio": (
        [segment(0, audio_offset_s=2.9)],
        "segment_too_short",
        "make it longer",
    ),
    "one speech into the next": ([segment(0), segment(0.5)], "segments_overlap", "End the first one earlier"),
    "two choices, one face": (
        [segment(0, face="left_most"), segment(0, face={"x": WIDTH / 4, "y": 110})],
        "segments_overlap",
        "or name another face",
    ),
    "nobody there": (
        [segment(0, face={"left": 0, "top": 0, "right": 5, "bottom": 5})],
        "face_not_found",
        "Segment 1: No face was found inside the box",
    ),
    "no such person": ([segment(0, face={"track": "person_9"})], "face_not_found", "Segment 1"),
}


@pytest.mark.parametrize("case", REFUTED)
def test_lists_that_only_the_decoded_files_refute(service: Service, scene: dict[str, Path], case: str) -> None:
    segments, code, words = REFUTED[case]
    error = submit(service, scene, segments)["error"]
    assert error["code"] == code, error
    assert words in error["message"], "it says which segment, and what to do"
