"""Shots, people and speakers in videos made from one portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.speaker_scenes import (
    FPS,
    Face,
    Picture,
    Placed,
    chewing_motion,
    draw_shot,
    make_music,
    speaking_motion,
    still_motion,
    write_scene,
)
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import FaceNotFoundError, RenderCanceled
from retalking_core.face_choice import Cast, Crop, locate_choice
from retalking_core.faces.people import VideoPeople, find_people, hear_speech
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import FaceChoice, FacePoint, FaceTrackId, RenderOptions
from retalking_core.progress import Progress
from retalking_core.types import Waveform
from tests.audio.spoken import read_spoken
from tests.faces.clips import PictureSource, backdrop, place_face, portrait
from tests.preview.speech import write_wav

WHOLE = (0.0, 0.0, 0.0, 0.0)
SECONDS = 3.2
COUNT = round(SECONDS * FPS)


def ignore(done: int, total: int) -> None:
    pass


def people_of(pictures: Sequence[Picture]) -> VideoPeople:
    return find_people(PictureSource(pictures), ignore)


def two_heads(left: float = 160, right: float = 480) -> Picture:
    picture = backdrop(640, 300)
    place_face(picture, 110, left, 130)
    place_face(picture, 90, right, 150)
    return picture


def test_each_face_of_a_shot_is_a_person_numbered_from_left_to_right() -> None:
    people = people_of([two_heads(160 + k, 480 - k) for k in range(24)])
    assert people.shots == ((0, 24),)
    assert [person.id for person in people.people] == ["person_1", "person_2"]
    first, second = (person.boxes(24) for person in people.people)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    centers = np.stack([boxes[:, [0, 2]].mean(axis=1) for boxes in (first, second)])
    assert np.abs(np.diff(centers[0]) - 1).mean() < 0.6
    assert np.abs(np.diff(centers[1]) + 1).mean() < 0.6
    assert centers[0].max() < 320 < centers[1].min()


def test_a_person_keeps_the_id_over_a_cut_to_another_place_and_size() -> None:
    shots = (
        [portrait(120, 400, 300, 120, 140)] * 12,
        [backdrop(400, 300) // 3] * 6,
        [portrait(90, 400, 300, 300, 150)] * 12,
    )
    people = people_of([picture for shot in shots for picture in shot])
    assert people.shots == ((0, 12), (12, 18), (18, 30))
    (person,) = people.people
    assert [(each.first, each.stop) for each in person.sightings] == [(0, 12), (18, 30)]
    assert np.isnan(person.boxes(30)[12:18]).all()
    assert person.quality(30)[12:18].max() == 0
    assert person.quality(30)[0] > person.quality(30)[18] > 0


def test_a_face_that_comes_later_is_found_and_one_that_goes_is_not_held() -> None:
    xs = [*range(-120, 160, 20), *[160] * 20]
    people = people_of([portrait(110, 400, 300, x, 140) for x in xs] + [backdrop(400, 300)] * 12)
    (person,) = people.people
    boxes = person.boxes(len(xs) + 12)
    assert np.isnan(boxes[:4]).all()
    assert np.isfinite(boxes[22:34]).all()
    assert np.isnan(boxes[-10:]).all()


def test_one_of_two_faces_goes_in_the_middle_of_a_shot() -> None:
    people = people_of([two_heads()] * 14 + [two_heads(right=900)] * 14)
    first, second = (person.boxes(28) for person in people.people)
    assert np.isfinite(first).all()
    assert np.isfinite(second[:14]).all()
    assert np.isnan(second[14:]).all()


def test_a_small_face_is_found_again_after_a_cut_that_was_not_seen() -> None:
    """The faces change places on the same wall, which changes too little of the picture to count as a cut."""

    def wall(large: float, small: float) -> Picture:
        picture = backdrop(960, 540)
        place_face(picture, 100, large, 180)
        place_face(picture, 52, small, 200)
        return picture

    people = people_of([wall(250, 750)] * 14 + [wall(750, 250)] * 20)
    assert people.shots == ((0, 34),)
    large, small = (person.boxes(34) for person in people.people)
    assert large[:14, 2].max() < 350
    assert small[:14, 0].min() > 650
    assert large[20:, 0].min() > 650
    assert small[20:, 2].max() < 350


def test_nobody_and_progress_and_its_end() -> None:
    empty = [backdrop(320, 240)] * 5
    assert people_of(empty).people == ()
    seen: list[tuple[int, int]] = []
    find_people(PictureSource(empty), lambda done, total: seen.append((done, total)))
    assert seen == [(k, 5) for k in range(1, 6)]

    def stop(done: int, total: int) -> None:
        raise RenderCanceled("enough")

    with pytest.raises(RenderCanceled):
        find_people(PictureSource(empty), stop)


@pytest.fixture(scope="module")
def speech() -> Waveform:
    spoken, _ = read_spoken()
    return Waveform(spoken.samples[: round(SECONDS * 16_000)])


@pytest.fixture(scope="module")
def faces(speech: Waveform) -> dict[str, list[Picture]]:
    """One portrait that speaks, chews and keeps its mouth shut."""
    face = Face(PictureSource([portrait(170, 300, 300, 150, 150)] * COUNT), range(COUNT))
    motions = {
        "speaks": speaking_motion(speech, COUNT),
        "chews": chewing_motion(COUNT, 1),
        "listens": still_motion(COUNT),
    }
    return {name: face.moving(motion) for name, motion in motions.items()}


def scene(
    path: Path, faces: dict[str, list[Picture]], behaviors: Sequence[str], sound: Waveform | None, swap_at: int = COUNT
) -> Path:
    """Three hundred pixels for each face; the first is smaller. From `swap_at` on the sides are swapped."""
    sizes = (240, 300, 300)

    def placed(order: Sequence[int]) -> list[Placed]:
        return [Placed(faces[behaviors[k]], sizes[k], 300 * place, 0) for place, k in enumerate(order)]

    order = range(len(behaviors))
    width = 300 * len(behaviors)
    pictures = draw_shot(placed(order), width, 300, 0, swap_at)
    pictures += draw_shot(placed(order[::-1]), width, 300, swap_at, COUNT)
    return write_scene(path, pictures, sound)


def cast_of(file: Path, crop: Crop = WHOLE) -> Cast:
    return Cast.of_video(file, open_video(file, DEFAULT_LIMITS), crop, DEFAULT_LIMITS, ignore)


def chosen(file: Path, choice: FaceChoice = "speaking") -> tuple[FaceChoice, str | None]:
    face, note = locate_choice(choice, file, open_video(file, DEFAULT_LIMITS), DEFAULT_LIMITS, ignore)
    return face, note and note.code


@pytest.mark.parametrize(
    ("behaviors", "speaker"),
    [
        (("speaks", "chews"), 0),
        (("chews", "speaks"), 1),
        (("listens", "speaks"), 1),
        (("chews", "listens", "speaks"), 2),
    ],
)
def test_the_face_that_speaks_is_chosen(
    behaviors: Sequence[str], speaker: int, faces: dict[str, list[Picture]], speech: Waveform, tmp_path: Path
) -> None:
    face, code = chosen(scene(tmp_path / "scene.mp4", faces, behaviors, speech))
    assert isinstance(face, FacePoint)
    assert 300 * speaker <= face.x < 300 * (speaker + 1)
    assert code == "speaker_chosen"


def test_the_speaker_is_found_under_music(faces: dict[str, list[Picture]], speech: Waveform, tmp_path: Path) -> None:
    level = float(np.sqrt(np.square(speech.samples).mean()))
    music = make_music(len(speech.samples), 16_000, 1) * np.float32(level / 0.1 / 3)
    face, _ = chosen(scene(tmp_path / "scene.mp4", faces, ("speaks", "chews"), Waveform(speech.samples + music)))
    assert isinstance(face, FacePoint)
    assert face.x < 300


@pytest.mark.parametrize("sound", ["silence", "music", "none"])
def test_where_nobody_speaks_the_largest_face_is_taken_and_said_so(
    sound: str, faces: dict[str, list[Picture]], tmp_path: Path
) -> None:
    count = round(SECONDS * 16_000)
    heard = {"silence": np.zeros(count, np.float32), "music": make_music(count, 16_000, 1), "none": None}[sound]
    file = scene(tmp_path / "scene.mp4", faces, ("chews", "listens"), None if heard is None else Waveform(heard))
    face, code = chosen(file)
    assert isinstance(face, FacePoint)
    assert face.x > 300
    assert code == "speaker_unknown"


def test_an_id_names_the_same_person_after_a_cut(
    faces: dict[str, list[Picture]], speech: Waveform, tmp_path: Path
) -> None:
    file = scene(tmp_path / "scene.mp4", faces, ("speaks", "chews"), speech)
    left, right = (chosen(file, FaceTrackId(f"person_{k}"))[0] for k in (1, 2))
    assert isinstance(left, FacePoint)
    assert isinstance(right, FacePoint)
    assert left.x < 300 < right.x


def test_an_unknown_id_and_one_that_is_not_shown_are_refused(tmp_path: Path) -> None:
    pictures = [portrait(120, 400, 300, 120, 140)] * 12 + [backdrop(400, 300) // 3] * 12
    cast = cast_of(write_scene(tmp_path / "scene.mp4", pictures, None))
    with pytest.raises(FaceNotFoundError, match="no face `person_3`; it shows person_1"):
        cast.place_of(FaceTrackId("person_3"), np.arange(24))
    with pytest.raises(FaceNotFoundError, match="not seen in the part"):
        cast.place_of(FaceTrackId("person_1"), np.arange(12, 24))


def test_a_person_is_placed_in_a_part_that_no_detector_looked_at(tmp_path: Path) -> None:
    cast = cast_of(write_scene(tmp_path / "scene.mp4", [two_heads()] * 12, None))
    assert cast.place_of(FaceTrackId("person_2"), np.arange(3, 6)).time_s == pytest.approx(3 / FPS)


def test_a_crop_excludes_people(tmp_path: Path) -> None:
    cast = cast_of(write_scene(tmp_path / "scene.mp4", [two_heads()] * 12, None), (0.5, 0.0, 0.0, 0.0))
    with pytest.raises(FaceNotFoundError):
        cast.place_of(FaceTrackId("person_1"), np.arange(12))
    assert cast.place_of(FaceTrackId("person_2"), np.arange(12)).x > 320
    face, _ = cast.identify("speaking", np.arange(12))
    assert face == FaceTrackId("person_2")


def test_voices_are_told_from_music_and_silence(speech: Waveform) -> None:
    assert hear_speech(speech).voice.mean() > 0.6
    music = Waveform(make_music(48_000, 16_000, 2))
    assert hear_speech(music).voice.mean() < 0.1
    assert hear_speech(Waveform(np.zeros(48_000, np.float32))).voice.max() == 0


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="PocketSphinx is not installed: no long decoding")
def test_hearing_who_speaks_can_be_canceled(speech: Waveform, tmp_path: Path) -> None:
    file = write_scene(tmp_path / "scene.mp4", [two_heads()] * 12, Waveform(speech.samples[800:]))
    calls: list[tuple[int, int]] = []

    def cancel(done: int, total: int) -> None:
        calls.append((done, total))
        raise RenderCanceled("enough")

    with pytest.raises(RenderCanceled):
        replace(cast_of(file), on_frame=cancel).identify("speaking", np.arange(12))
    assert calls == [(12, 12)]


def test_a_render_draws_on_the_speaker_alone(faces: dict[str, list[Picture]], speech: Waveform, tmp_path: Path) -> None:
    """Through an engine, with progress that never falls."""
    file = scene(tmp_path / "scene.mp4", faces, ("speaks", "chews"), speech)
    audio = write_wav(tmp_path / "speech.wav", Waveform(speech.samples[:16_000]))
    steps: list[Progress] = []
    options = RenderOptions(face="speaking", length_mode="cut_off")
    report = render_files(PreviewEngine(), file, audio, tmp_path / "result.mp4", options, steps.append)
    assert report.face_boxes is not None
    assert np.nanmax(report.face_boxes[:, 2]) < 300
    assert "speaker_chosen" in [note.code for note in report.notes]
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
