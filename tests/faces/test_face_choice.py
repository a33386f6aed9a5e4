"""Whom each line of a render means: settled before an engine starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.speaker_scenes import FPS, Face, Placed, draw_shot, speaking_motion, still_motion, write_scene
from retalking_core import face_choice
from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.errors import FaceNotFoundError, SegmentsOverlapError, TooManySegmentsError
from retalking_core.face_choice import SettledRender, settle_faces
from retalking_core.faces.people import find_people
from retalking_core.faces.track import TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import FaceChoice, FacePoint, FaceTrackId, RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import Waveform
from retalking_core.vocabulary.options import MAX_SPEAKERS
from tests.audio.spoken import read_spoken
from tests.faces.clips import PictureSource, portrait
from tests.preview.speech import write_wav

TURN_S = 3.2
TURN = round(TURN_S * FPS)
LEFT, RIGHT = FaceTrackId("person_1"), FaceTrackId("person_2")
# Their turns, a little apart from each other's.
FIRST, SECOND = (0.0, 3.0), (3.4, 6.2)


@pytest.fixture(scope="module")
def speech() -> Waveform:
    spoken, _ = read_spoken()
    return Waveform(spoken.samples[: round(TURN_S * 16_000)])


@pytest.fixture(scope="module")
def audio(speech: Waveform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "line.wav", speech)


@pytest.fixture(scope="module")
def video(speech: Waveform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads of one portrait: the left one says something and then listens, the right one answers."""
    face = Face(PictureSource([portrait(170, 300, 300, 150, 150)] * TURN), range(TURN))
    speaks, listens = face.moving(speaking_motion(speech, TURN)), face.moving(still_motion(TURN))
    placed = [Placed([*speaks, *listens], 240, 0, 30), Placed([*listens, *speaks], 240, 260, 30)]
    path = tmp_path_factory.mktemp("video") / "two.mp4"
    return write_scene(path, draw_shot(placed, 500, 300, 0, 2 * TURN), Waveform(np.tile(speech.samples, 2)))


@pytest.fixture(scope="module", autouse=True)
def _people_are_found_once(video: Path) -> Iterator[None]:
    people = find_people(open_video(video, DEFAULT_LIMITS), lambda done, total: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face_choice, "find_people", lambda source, on_frame: people)
        yield


def settle(
    video: Path, audio: Path, lines: Sequence[tuple[tuple[float, float], FaceChoice]], options: RenderOptions
) -> SettledRender:
    inputs = [LineInput(audio, *times_s, face=face) for times_s, face in lines]
    with plan_clip(video, inputs, options, DEFAULT_LIMITS) as clip:
        return settle_faces(clip, options, DEFAULT_LIMITS, ignore_progress)


def sides(clip: ClipPlan) -> dict[int, str]:
    """By number of the line."""
    found = {}
    for speaker in clip.speakers:
        assert isinstance(speaker.face, FacePoint)
        for line in speaker.lines:
            found[line.number] = "left" if speaker.face.x < 250 else "right"
    return found


def test_each_line_is_spoken_by_whoever_speaks_there(video: Path, audio: Path) -> None:
    clip = settle(video, audio, [(SECOND, "speaking"), (FIRST, "speaking")], RenderOptions()).clip
    assert sides(clip) == {0: "right", 1: "left"}
    assert [note.ranges_s for note in clip.notes if note.code == "speaker_chosen"] == [(FIRST,), (SECOND,)]


def test_speaking_lines_may_overlap_if_they_turn_out_to_be_of_two_people(video: Path, audio: Path) -> None:
    clip = settle(video, audio, [((0.0, 3.4), "speaking"), ((3.0, 6.4), "speaking")], RenderOptions()).clip
    assert sides(clip) == {0: "left", 1: "right"}


@pytest.mark.parametrize("faces", [("speaking", "speaking"), ("speaking", LEFT), (LEFT, LEFT)])
def test_lines_of_one_person_must_not_overlap(faces: tuple[FaceChoice, FaceChoice], video: Path, audio: Path) -> None:
    with pytest.raises(SegmentsOverlapError) as refusal:
        settle(video, audio, [((0.0, 2.8), faces[0]), ((0.4, 3.0), faces[1])], RenderOptions())
    assert refusal.value.details["segments"] == [0, 1]


def test_all_lines_of_one_person_share_a_place(video: Path, audio: Path) -> None:
    lines = [(FIRST, RIGHT), (SECOND, "speaking"), ((0.2, 1.0), "left_most")]
    first, second = settle(video, audio, lines, RenderOptions()).clip.speakers
    assert [line.number for line in first.lines] == [0, 1]
    assert isinstance(first.face, FacePoint)
    assert second.face == "left_most"


def test_the_face_of_the_options_is_settled_for_two_files(video: Path, audio: Path) -> None:
    options = RenderOptions(face="speaking", length_mode="cut_off")
    with plan_clip(video, audio, options, DEFAULT_LIMITS) as clip:
        settled = settle_faces(clip, options, DEFAULT_LIMITS, ignore_progress)
    assert sides(settled.clip) == {0: "left"}
    assert settled.options.face == settled.clip.speakers[0].face
    (note,) = [note for note in settled.clip.notes if note.code == "speaker_chosen"]
    assert note.ranges_s == ()


def test_a_missing_person_is_refused_with_its_lines(video: Path, audio: Path) -> None:
    nobody = FaceTrackId("person_7")
    with pytest.raises(FaceNotFoundError, match=r"Segments 2, 3: The video has no face `person_7`") as refusal:
        settle(video, audio, [(FIRST, LEFT), ((0.0, 1.0), nobody), ((2.0, 3.0), nobody)], RenderOptions())
    assert refusal.value.details["segments"] == [1, 2]


def test_people_count_as_faces_that_one_render_draws(video: Path, audio: Path) -> None:
    places: list[tuple[tuple[float, float], FaceChoice]] = [(FIRST, FacePoint(k, 0)) for k in range(MAX_SPEAKERS - 1)]
    assert len(settle(video, audio, [*places, (FIRST, "speaking")], RenderOptions()).clip.speakers) == MAX_SPEAKERS
    with pytest.raises(TooManySegmentsError):
        settle(video, audio, [*places, (FIRST, "speaking"), (SECOND, "speaking")], RenderOptions())


def test_places_cost_no_search(video: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("nobody is to be looked for")

    monkeypatch.setattr(face_choice, "find_people", fail)
    with plan_clip(video, [LineInput(audio, *FIRST, face="right_most")], RenderOptions(), DEFAULT_LIMITS) as clip:
        assert settle_faces(clip, RenderOptions(), DEFAULT_LIMITS, ignore_progress).clip is clip


@pytest.mark.parametrize("choice", ["speaking", LEFT])
def test_a_tracker_refuses_what_was_not_settled(choice: FaceChoice) -> None:
    with pytest.raises(ValueError, match="settle_faces"):
        TrackRequest([0], choice)
