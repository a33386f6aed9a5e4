"""`retalking evaluate` on two files and on small data sets, with the preview engine."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.dataset import Pairing, find_pairings
from retalking_client.cli.common import CommandError
from tests.cli.conftest import Ended, Up
from tests.evaluation.clips import write_talking_clip
from tests.faces.clips import portrait as picture_of_face
from tests.media.clips import make_png, make_video, make_wav
from tests.media.dialogs import make_dialog
from tests.preview.speech import talk, write_wav

Call = Callable[..., Ended]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    speech = write_wav(folder / "talk.wav", talk(1.0))
    faces = [picture_of_face(120, 320, 260, 150 + number, 130) for number in range(14)]
    return write_talking_clip(folder / "clip.mp4", faces, speech)


def test_two_files_as_json(call: Call, clip: Path) -> None:
    ended = call("evaluate", str(clip), "--reference", str(clip), "--metrics", "ssim,csim,ssim", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert (document["result"], document["reference"], document["synthetic_weights"]) == ("clip.mp4", "clip.mp4", False)
    ssim, csim = document["metrics"]
    assert (ssim["name"], ssim["value"], ssim["better"]) == ("ssim", 1.0, "higher")
    assert csim["value"] is None
    assert "recognition_arcface_ir_se50.pth" in csim["reason"]


def test_two_files_as_table_and_page(call: Call, clip: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    ended = call(
        "evaluate", str(clip), "--reference", str(clip), "--metrics", "ssim,mouth_speech_lag", "--report", str(page)
    )
    assert ended.code == 0, ended.err
    assert "ssim" in ended.out
    html = page.read_text()
    assert html.count('src="data:video/mp4;base64,') == 2
    assert html.count('src="data:image/svg+xml;base64,') == 2
    assert html.count('src="data:image/jpeg;base64,') >= 2
    check_self_contained(html)


def test_segments_of_a_result(call: Call, tmp_path: Path) -> None:
    dialog = make_dialog(tmp_path, seconds=1.6)
    listed = [
        {"audio": "first.wav", "start_s": 0.2, "end_s": 1.2, "face": "left_most"},
        {"audio": "second.wav", "start_s": 0.4, "end_s": 1.6, "face": "right_most"},
    ]
    segments = tmp_path / "segments.json"
    segments.write_text(json.dumps(listed))
    names = "mouth_speech_correlation,face_coverage,psnr_outside_face"
    asked = ("evaluate", str(dialog.video), "--metrics", names, "--segments", str(segments))
    ended = call(*asked, "--reference", str(dialog.video), "--json")
    assert ended.code == 0, ended.err
    follows, coverage, outside = json.loads(ended.out)["metrics"]
    assert [each["value"] for each in coverage["segments"]] == [1.0, 1.0]
    assert len(follows["segments"]) == 2
    assert "lines" not in follows
    assert "2 speak" in follows["reason"]
    assert outside["reason"] == "the 40 frames are equal outside the face: PSNR is infinite"
    table = call(*asked)
    assert "Segments" in table.out
    segments.write_text(json.dumps([{**listed[0], "start_s": 1.0, "end_s": 3.0}]))
    ended = call(*asked)
    assert ended.code != 0
    assert "was not made of them" in ended.err


def check_self_contained(html: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    assert "url(http" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CLIP", "--metrics", "nonsense"], "There is no metric nonsense"),
        (["CLIP", "--model", "video_retalking"], "go with --dataset"),
        (["--dataset", "."], "needs --model"),
        (["--dataset", ".", "--model", "wav2lip"], "There is no model wav2lip"),
        ([], "Give either a RESULT or --dataset"),
        (["--dataset", ".", "--model", "preview"], "holds no videos"),
    ],
)
def test_wrong_usage_is_reported(call: Call, clip: Path, arguments: list[str], words: str) -> None:
    ended = call("evaluate", *(str(clip) if argument == "CLIP" else argument for argument in arguments))
    assert ended.code == 2
    assert words in ended.err


def test_a_result_that_is_no_video_is_refused(call: Call, tmp_path: Path) -> None:
    text = tmp_path / "result.mp4"
    text.write_text("not a film")
    ended = call("evaluate", str(text), "--metrics", "ssim")
    assert ended.code == 1
    assert "container_unsupported" in ended.err


def test_the_neural_engine_is_not_replaced_silently(call: Call, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", speech_s=0.4)
    ended = call("evaluate", "--model", "video_retalking", "--dataset", str(tmp_path))
    if ended.code == 0:
        pytest.skip("the neural engine is installed here")
    assert "engine_unavailable" in ended.err
    assert "--engine preview" in ended.err


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One portrait, two tracks, and a video without a face."""
    folder = tmp_path / "set"
    for part in ("video", "audio"):
        (folder / part).mkdir(parents=True)
    make_png(folder / "video" / "face.png", picture_of_face(130, 280, 260, 140, 130)[..., ::-1].copy())
    for number, seconds in enumerate((0.8, 1.0)):
        write_wav(folder / "audio" / f"talk{number}.wav", talk(seconds))
    return folder


def test_a_data_set_is_rendered_scored_and_resumed(call: Call, dataset: Path, tmp_path: Path) -> None:
    make_video(dataset / "video" / "nobody.mp4", frames=20)
    command = ("evaluate", "--model", "video_retalking", "--engine", "preview", "--dataset", str(dataset))
    asked = ("--metrics", "ssim,mouth_speech_lag,csim", "--out", str(tmp_path / "out"))
    first = call(*command, *asked)
    assert first.code == 1
    assert "clips_failed: 2 of 4" in first.err
    assert "face_not_found" in first.err
    results = sorted((tmp_path / "out" / "clips").glob("*/result.mp4"))
    stamps = [path.stat().st_mtime_ns for path in results]
    assert len(results) == 2
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [clip["name"] for clip in scores["clips"]] == ["face + talk0", "face + talk1"]
    values = [clip["metrics"][0]["value"] for clip in scores["clips"]]
    assert all(0.5 < value < 1 for value in values)
    assert scores["mean"]["ssim"] == pytest.approx(sum(values) / 2)
    assert scores["mean"]["csim"] is None
    assert scores["clips"][0]["notes"] == []
    with (tmp_path / "out" / "scores.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["clip"] for row in rows] == ["face + talk0", "face + talk1", "mean"]
    assert float(rows[0]["ssim"]) == values[0]
    assert rows[0]["csim"] == ""
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count('src="data:video/mp4;base64,') == 4
    check_self_contained(html)

    (dataset / "video" / "nobody.mp4").unlink()
    note = {"code": "face_parts_not_found", "sentence": "Frames were kept.", "ranges_s": [[0.2, 0.4]]}
    (tmp_path / "out" / "clips" / scores["clips"][0]["folder"] / "notes.json").write_text(json.dumps([note]))
    again = call(*command, *asked, "--json")
    assert again.code == 0, again.err
    assert [path.stat().st_mtime_ns for path in results] == stamps
    assert "synthesize" not in again.err
    assert json.loads(again.out)["clips"] == [scores["clips"][0] | {"notes": [note]}, scores["clips"][1]]
    assert "Frames were kept. (0.20-0.40 s)" in (tmp_path / "out" / "report.html").read_text()


def test_a_data_set_is_found_by_name_and_the_mouth_target_is_carried_through(
    call: Call, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The talkingface-toolkit's folder layout: model and data set name alone suffice."""
    named = tmp_path / "dataset" / "video-retalking" / "val"
    named.mkdir(parents=True)
    (dataset / "video").rename(named / "face")
    (dataset / "audio").rename(named / "audio")
    (named / "audio" / "talk0.wav").unlink()
    monkeypatch.setenv("RETALKING_DATASETS_DIR", str(tmp_path / "dataset"))
    command = ("evaluate", "--model", "video_retalking", "--engine", "preview", "--dataset", "video-retalking")
    command += ("--metrics", "mouth_target_correlation,mouth_target_lag", "--out", str(tmp_path / "out"), "--json")
    for _ in ("rendered", "scored again by a later process"):
        ended = call(*command)
        assert ended.code == 0, ended.err
        (clip,) = json.loads(ended.out)["clips"]
        assert all(metric["value"] is not None for metric in clip["metrics"]), clip["metrics"]
        for scores in (tmp_path / "out" / "clips").glob("*/scores.json"):
            scores.unlink()


@pytest.mark.parametrize("name", ["no-such-set", "../set", "/nowhere"])
def test_an_unknown_data_set_is_named_with_those_that_exist(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "dataset" / "one").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    monkeypatch.setenv("RETALKING_DATASETS_DIR", str(tmp_path / "dataset"))
    ended = call("evaluate", "--model", "preview", "--dataset", name)
    assert ended.code == 2
    assert "it holds one" in ended.err
    assert "RETALKING_DATASETS_DIR" in ended.err


@pytest.mark.e2e
def test_renders_can_be_sent_to_a_service(
    call: Call, start_up: Callable[..., Up], dataset: Path, tmp_path: Path
) -> None:
    (dataset / "audio" / "talk1.wav").unlink()
    up = start_up(tmp_path / "data")
    command = ("evaluate", "--model", "preview", "--dataset", str(dataset), "--jobs", up.url(), "--json")
    ended = call(*command, "--metrics", "ssim,mouth_target_correlation,mouth_target_lag")
    assert ended.code == 0, ended.err
    (clip,) = json.loads(ended.out)["clips"]
    assert clip["metrics"][0]["value"] > 0.5
    assert all(metric["value"] is not None for metric in clip["metrics"]), clip["metrics"]
    assert up.stop() == 0


def test_pairings(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=2)
    make_video(tmp_path / "b.mp4", frames=2)
    make_wav(tmp_path / "a.wav", 0.2)
    assert [(pair.name, pair.audio.name) for pair in find_pairings(tmp_path)] == [("a", "a.wav"), ("b", "b.mp4")]
    (tmp_path / "pairs.csv").write_text("video,audio,name\nb.mp4,a.wav,mixed\na.mp4,a.wav,\n")
    assert [pair.name for pair in find_pairings(tmp_path)] == ["mixed", "a + a"]
    (tmp_path / "pairs.csv").write_text("video,audio\nb.mp4,c.wav\n")
    with pytest.raises(CommandError, match=r"line 2: no file .*c\.wav"):
        find_pairings(tmp_path)
    (tmp_path / "pairs.csv").write_text("film,sound\n")
    with pytest.raises(CommandError, match="columns video and audio"):
        find_pairings(tmp_path)


def test_a_clip_is_known_by_its_content(tmp_path: Path) -> None:
    one, other = make_wav(tmp_path / "a.wav", 0.2), make_wav(tmp_path / "b.wav", 0.3)
    copy = tmp_path / "renamed.wav"
    copy.write_bytes(one.read_bytes())
    assert Pairing("x", one, other).digest("preview") == Pairing("y", copy, other).digest("preview")
    assert Pairing("x", one, other).digest("preview") != Pairing("x", one, other).digest("videoretalking")
    assert Pairing("x", one, other).digest("preview") != Pairing("x", other, one).digest("preview")
