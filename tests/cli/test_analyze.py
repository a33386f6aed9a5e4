"""`retalking analyze`: who is in a video, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from bench.speaker_scenes import write_scene
from retalking_core.vocabulary.video_analysis import VideoAnalysis
from tests.cli.conftest import Ended
from tests.faces.clips import backdrop, place_face

Call = Callable[..., Ended]


def test_people_are_listed_and_pictured(call: Call, tmp_path: Path) -> None:
    picture = backdrop(640, 300)
    place_face(picture, 110, 160, 130)
    place_face(picture, 90, 480, 150)
    video = str(write_scene(tmp_path / "two.mp4", [picture] * 12, None))
    done = call("analyze", video, "--json", "--thumbnails", "people")
    assert done.code == 0, done.err
    found = VideoAnalysis.model_validate(json.loads(done.out))
    assert [person.track for person in found.people] == ["person_1", "person_2"]
    first, second = (person.boxes[0] for person in found.people)
    assert first is not None
    assert second is not None
    assert first[2] < 320 < second[0]
    assert found.notes[0].startswith("Nobody can be heard")
    for name in ("person_1", "person_2"):
        with Image.open(tmp_path / "people" / f"{name}.jpg") as thumbnail:
            assert thumbnail.format == "JPEG"
    table = call("analyze", video)
    assert (table.code, "2 people in 1 shot, 0.48 s" in table.out) == (0, True), table.out


def test_bad_input_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"RIFF")
    done = call("analyze", "no.mp4")
    assert done.code == 1
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == done.err.splitlines()[-1:]
