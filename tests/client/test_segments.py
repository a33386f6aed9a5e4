"""Segments through the clients and `retalking submit --segments`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from api.segments import SegmentSubmission
from retalking_client import Segment
from retalking_client.calls import submit_call
from retalking_client.cli.common import CommandError
from retalking_client.cli.submit import read_segments
from tests.api.running import WAV, RunningApi


def test_the_fields_are_those_of_the_service() -> None:
    assert set(get_type_hints(Segment)) == set(SegmentSubmission.model_fields)


def test_files_are_sent_once_each(client: Any, api: RunningApi, face: Path, speech: Path, tmp_path: Path) -> None:
    other = tmp_path / "ben.wav"
    other.write_bytes(WAV + b"more")
    upload = client.upload(speech)
    job = client.submit(
        face,
        segments=[
            {"audio": speech, "start_s": 0, "end_s": 1, "face": "left_most"},
            {"audio": str(other), "start_s": 0.5, "face": {"x": 400, "y": 100}},
            {"audio": speech, "start_s": 3, "audio_offset_s": 1, "face": "left_most"},
            {"audio": upload, "start_s": 9},
        ],
        sound={"mix": "over"},
    )
    assert [(each.audio, each.start_s) for each in job.segments] == [
        ("audio_1", 0),
        ("audio_2", 0.5),
        ("audio_1", 3),
        ("audio_3", 9),
    ]
    assert [job.inputs[part].filename for part in ("audio_1", "audio_2")] == ["speech.wav", "ben.wav"]
    assert job.inputs["audio_3"].upload_id == upload.id
    assert job.options["sound"]["mix"] == "over"


def test_one_speech_or_segments(face: Path, speech: Path) -> None:
    for audio, segments in ((None, None), (speech, [])):
        with pytest.raises(TypeError, match="either audio"):
            submit_call(face, audio, {}, None, segments)
    with pytest.raises(FileNotFoundError):
        submit_call(face, None, {}, None, [{"audio": "missing.wav", "start_s": 0}])


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "dub"
    folder.mkdir()
    (folder / "anna.wav").write_bytes(WAV)
    lines = [
        {"audio": "anna.wav", "start_s": 1},
        {"audio": "https://example.com/ben.wav", "start_s": 4, "face": "center"},
    ]
    (folder / "segments.json").write_text(json.dumps(lines))
    read = read_segments(folder / "segments.json")
    assert [each["audio"] for each in read] == [str(folder / "anna.wav"), "https://example.com/ben.wav"]


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("[{]", "malformed_json", "not JSON"),
        ("\xff", "malformed_json", "not JSON"),
        ('{"audio": "a.wav"}', "invalid_option", "list"),
        ('[{"audio": "a.wav"}]', "invalid_option", "0.start_s: Field required"),
        ('[{"audio": "a.wav", "start_s": 0, "speed": 2}]', "invalid_option", "speed"),
        ('[{"audio": "a.wav", "start_s": 0}]', "file_not_found", "a.wav"),
        ("[" + " " * (1 << 20) + "]", "invalid_option", "1 MB"),
    ],
)
def test_files_that_are_no_list_of_segments(tmp_path: Path, text: str, code: str, word: str) -> None:
    path = tmp_path / "segments.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CommandError, match=word) as caught:
        read_segments(path)
    assert caught.value.code == code
