"""Conformance tests that every engine must pass, to be run by pytest.

    class TestMyEngine(EngineConformance):
        @pytest.fixture(scope="class")
        @classmethod
        def engine(cls):
            return MyEngine()

The clips are made on the fly from the public-domain portrait in scikit-image: a head that moves slowly over a plain
backdrop, lossless, so that an untouched pixel is an equal pixel. Results are encoded losslessly, too.
"""

from __future__ import annotations

import json
import re
import threading
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import Engine, SegmentedEngine, render_files
from retalking_core.errors import (
    FaceMissingError,
    FaceNotFoundError,
    InputError,
    OptionUnsupportedError,
    RenderCanceled,
    RetalkingError,
)
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import load_waveform
from retalking_core.media.tap import ResultTap
from retalking_core.notes import Note
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import Progress, ignore_progress
from retalking_core.types import Frame, RenderReport
from retalking_core.vocabulary.containers import HEAD_BYTES, sniff
from retalking_core.vocabulary.engines import ENGINE_NAME, JOB_STAGES, EngineCapabilities
from retalking_core.vocabulary.options import EXPRESSION_IMAGE

FPS = 25
FRAMES = 20
FACELESS_FROM = 12
WIDTH, HEIGHT = 320, 256
RATE_HZ = 16_000
LOSSLESS = RenderOptions(output=OutputOptions(crf=0))

# A value other than the default, for each option of a render; dotted names reach inside.
EXAMPLES: dict[str, Any] = {
    "expression": "smile",
    "upper_face": "angry",
    "length_mode": "loop",
    "face": "left_most",
    "missing_face": "fail",
    "crop": (0.05, 0.05, 0.05, 0.05),
    "pads": (5, 25, 5, 5),
    "one_shot": True,
    "fps": 30.0,
    "output.crf": 30,
    "output.max_height": 128,
    "output.container": "mov",
    "output.fps": 12.5,
    "output.badge": True,
    "sound.mix": "over",
    "sound.ducking_db": -20.0,
    "audio_track": "1",
    "transcript": "My mother bought pumpkins.",
    "seed": 7,
}


@dataclass(frozen=True)
class Clips:
    """Inputs of the tests. face: a head on every frame; faceless: none; partly: none from frame `FACELESS_FROM` on."""

    face: Path
    faceless: Path
    partly: Path
    still: Path
    speech: Path

    def speech_of(self, seconds: float) -> Path:
        return write_speech(self.speech.with_name(f"speech-{seconds}.wav"), seconds)


class EngineConformance:
    """Subclass it under a name that begins with `Test`, and give it a fixture `engine`."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        """The engine to test, loaded. Renders are made one after the other."""
        raise NotImplementedError("a subclass of EngineConformance needs the fixture `engine`")

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, tmp_path_factory: pytest.TempPathFactory) -> Clips:
        return make_clips(tmp_path_factory.mktemp("clips"))

    @pytest.fixture(scope="class")
    @classmethod
    def lossless(
        cls, engine: Engine, clips: Clips, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[RenderReport, Path]:
        """One render of the plain case, for all tests that only look at it."""
        result = tmp_path_factory.mktemp("lossless") / "result.mp4"
        engine.warm_up()
        return render_files(engine, clips.face, clips.speech, result, LOSSLESS, ignore_progress), result

    # Capabilities

    def test_capabilities_describe_the_engine(self, engine: Engine) -> None:
        stated = engine.capabilities
        assert isinstance(stated, EngineCapabilities)
        assert re.match(ENGINE_NAME, stated.name), f"{stated.name!r} is no name that a job can ask for"
        assert stated.version, "a version is needed: segments and caches of different versions are kept apart"
        assert stated.device
        assert stated.description.strip().endswith("."), "the description is a sentence for `GET /engines`"

    def test_unsupported_options_name_options_and_values_that_exist(self, engine: Engine) -> None:
        for option, values in engine.capabilities.unsupported_options.items():
            assert option in EXAMPLES, f"{option} is no option of a render"
            for text in values:
                typed(option, text)

    # Refusals

    def test_unsupported_options_are_refused(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        for option, values in engine.capabilities.unsupported_options.items():
            for text in values or (None,):
                value = EXAMPLES[option] if text is None else typed(option, text)
                options = with_option(LOSSLESS, option, clips.still if value == EXPRESSION_IMAGE else value)
                with pytest.raises(OptionUnsupportedError) as refusal:
                    render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", options, ignore_progress)
                assert refusal.value.details.get("option") == option, "the error names the option: option=..."
                assert not list(tmp_path.iterdir()), f"a file was left behind when {option} was refused"

    @pytest.mark.parametrize("option", EXAMPLES)
    def test_every_other_option_is_honored(self, engine: Engine, clips: Clips, tmp_path: Path, option: str) -> None:
        refused = engine.capabilities.unsupported_options.get(option, (None,))
        if not refused or as_text(EXAMPLES[option]) in refused:
            pytest.skip(f"{engine.capabilities.name} states that it does not support {option}")
        options = with_option(LOSSLESS, option, EXAMPLES[option])
        result = tmp_path / f"result.{options.output.container}"
        report = render_files(engine, clips.face, clips.speech, result, options, ignore_progress)
        video = open_video(result, DEFAULT_LIMITS)
        assert (video.info.width, video.info.height) == (report.width, report.height)
        assert video.info.height == (options.output.max_height or HEIGHT)
        assert float(video.info.fps) == float(report.fps) == (options.output.fps or FPS)
        with result.open("rb") as file:
            kind = sniff(file.read(HEAD_BYTES))
        assert kind is not None
        assert kind.name == options.output.container

    def test_a_tap_gives_what_the_report_and_the_file_state(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        result, tap, numbers = tmp_path / "result.mp4", ResultTap(), list[int]()

        def read() -> None:
            if tap.open():
                numbers.extend(frame.index for frame in tap.frames())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with plan_clip(clips.face, clips.speech, LOSSLESS, DEFAULT_LIMITS) as clip:
                report = engine.render(replace(clip, tap=tap), result, LOSSLESS, ignore_progress)
        finally:
            if not tap.is_complete:
                tap.close()
            reader.join()
        if not tap.is_complete:
            pytest.skip(f"{engine.capabilities.name} hands no packets on: its results are evaluated after the render")
        assert numbers == list(range(report.frames))
        assert (tap.face_boxes is None) == (report.face_boxes is None), "announce() was given the report's boxes"
        if report.face_boxes is not None:
            assert np.array_equal(np.asarray(tap.face_boxes), report.face_boxes, equal_nan=True)
        assert (tap.held is None) == (report.held is None), "announce() was given the frames that the report holds"

    def test_a_picture_of_an_expression_is_taken_or_refused(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        refused = engine.capabilities.unsupported_options.get("expression")
        options = replace(LOSSLESS, expression=str(clips.still))
        if refused is not None and (not refused or EXPRESSION_IMAGE in refused):
            with pytest.raises(OptionUnsupportedError):
                render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", options, ignore_progress)
        else:
            render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", options, ignore_progress)

    def test_speech_that_is_none_is_refused(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        text = tmp_path / "speech.wav"
        text.write_text("not a sound")
        with pytest.raises(InputError):
            render_files(engine, clips.face, text, tmp_path / "result.mp4", LOSSLESS, ignore_progress)
        assert list(tmp_path.iterdir()) == [text]

    # The result

    def test_the_report_describes_the_file(self, engine: Engine, lossless: tuple[RenderReport, Path]) -> None:
        report, result = lossless
        stated, info = engine.capabilities, open_video(result, DEFAULT_LIMITS).info
        assert (report.engine, report.engine_version, report.device) == (stated.name, stated.version, stated.device)
        assert report.synthetic_weights == stated.synthetic_weights
        assert (report.width, report.height) == (info.width, info.height) == (WIDTH, HEIGHT)
        assert report.frames == info.frame_count == FRAMES
        assert report.fps == info.fps == FPS
        assert report.duration_s == pytest.approx(FRAMES / FPS, abs=1e-6)
        assert report.face_coverage == pytest.approx(1.0), "the clip shows a face on every frame"
        assert report.faceless_ranges_s == []
        assert report.stage_times_s, "the report says how long each stage took"
        assert all(seconds >= 0 for seconds in report.stage_times_s.values())
        assert all(isinstance(note, Note) for note in report.notes)

    def test_the_mouth_target_has_a_value_a_frame(self, lossless: tuple[RenderReport, Path]) -> None:
        target = lossless[0].mouth_target
        if target is None:
            pytest.skip("the engine states no mouth target")
        assert target.shape == (FRAMES,)
        assert np.isfinite(target).all()
        assert target.min() >= 0
        assert target.max() <= 1

    def test_the_sound_is_the_speech(self, clips: Clips, lossless: tuple[RenderReport, Path]) -> None:
        made = load_waveform(lossless[1], DEFAULT_LIMITS).samples
        given = load_waveform(clips.speech, DEFAULT_LIMITS).samples
        assert abs(len(made) - len(given)) <= RATE_HZ / FPS, "picture and sound differ by more than a frame"
        length = min(len(made), len(given))
        assert np.corrcoef(made[:length], given[:length])[0, 1] > 0.9, "the sound is not the speech, or is shifted"

    def test_the_mouth_moves(self, clips: Clips, lossless: tuple[RenderReport, Path]) -> None:
        most = max(int(change.max()) for change in changes(clips.face, lossless[1]))
        assert most > 8, f"no pixel changed by more than {most} levels: the engine draws nothing"

    def test_pixels_outside_the_declared_region_are_untouched(
        self, engine: Engine, clips: Clips, lossless: tuple[RenderReport, Path]
    ) -> None:
        margin = engine.capabilities.face_margin
        if margin is None:
            pytest.skip("the engine states that it may change the whole frame (face_margin=None)")
        for number, (change, inside) in enumerate(
            zip(changes(clips.face, lossless[1]), face_regions(clips.face, margin), strict=True)
        ):
            outside = int(np.where(inside, 0, change).max())
            assert outside == 0, f"frame {number}: {outside} levels of change outside the face (margin {margin})"

    def test_the_same_seed_gives_the_same_pictures(
        self, engine: Engine, clips: Clips, tmp_path: Path, lossless: tuple[RenderReport, Path]
    ) -> None:
        again = tmp_path / "again.mp4"
        render_files(engine, clips.face, clips.speech, again, LOSSLESS, ignore_progress)
        assert not any(change.any() for change in changes(lossless[1], again))

    def test_a_still_picture_gets_the_rate_asked_for(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        result = tmp_path / "result.mp4"
        report = render_files(engine, clips.still, clips.speech, result, replace(LOSSLESS, fps=10.0), ignore_progress)
        assert float(report.fps) == 10
        assert report.frames == round(FRAMES / FPS * 10)

    @pytest.mark.parametrize(
        ("mode", "speech_s", "length_s"),
        [
            ("cut_off", 1.2, 0.8),
            ("cut_off", 0.4, 0.4),
            ("loop", 1.2, 1.2),
            ("bounce", 1.2, 1.2),
            ("silence", 1.2, 1.2),
            ("silence", 0.4, 0.8),
            ("remap", 0.4, 0.4),
        ],
    )
    def test_length_modes(
        self, engine: Engine, clips: Clips, tmp_path: Path, mode: str, speech_s: float, length_s: float
    ) -> None:
        refused = engine.capabilities.unsupported_options.get("length_mode", (None,))
        if not refused or mode in refused:
            pytest.skip(f"the engine states that it does not support length_mode={mode}")
        result = tmp_path / "result.mp4"
        options = with_option(LOSSLESS, "length_mode", mode)
        report = render_files(engine, clips.face, clips.speech_of(speech_s), result, options, ignore_progress)
        assert report.frames == open_video(result, DEFAULT_LIMITS).info.frame_count
        assert abs(report.frames - length_s * FPS) <= 1
        sound_s = load_waveform(result, DEFAULT_LIMITS).duration_s
        assert abs(sound_s - length_s) <= 1 / FPS + 0.03

    # Faces

    def test_a_clip_without_a_face_is_refused(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        with pytest.raises(FaceNotFoundError):
            render_files(engine, clips.faceless, clips.speech, tmp_path / "result.mp4", LOSSLESS, ignore_progress)
        assert not list(tmp_path.iterdir())

    def test_frames_without_a_face_pass_through(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        result = tmp_path / "result.mp4"
        report = render_files(engine, clips.partly, clips.speech, result, LOSSLESS, ignore_progress)
        assert report.face_coverage == pytest.approx(FACELESS_FROM / FRAMES, abs=0.11)
        (span,) = report.faceless_ranges_s
        assert span[0] == pytest.approx(FACELESS_FROM / FPS, abs=2.1 / FPS)
        assert span[1] == pytest.approx(FRAMES / FPS, abs=1e-3)
        late = list(changes(clips.partly, result))[FACELESS_FROM + 2 :]
        assert not any(change.any() for change in late), "a frame without a face was changed"

    def test_missing_faces_can_be_refused(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        if engine.capabilities.unsupported_options.get("missing_face", (None,)) in ((), ("fail",)):
            pytest.skip("the engine states that it does not support missing_face=fail")
        options = replace(LOSSLESS, missing_face="fail")
        with pytest.raises(FaceMissingError):
            render_files(engine, clips.partly, clips.speech, tmp_path / "result.mp4", options, ignore_progress)
        assert not list(tmp_path.iterdir())

    # Progress

    def test_progress_rises_to_the_end(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        steps: list[Progress] = []
        render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", LOSSLESS, steps.append)
        fractions = [step.fraction for step in steps]
        assert len(set(fractions)) > 3, "progress moves in more than three steps"
        assert fractions == sorted(fractions), "the fraction falls"
        assert 0 <= fractions[0] <= 0.2
        assert fractions[-1] == pytest.approx(1.0)
        assert {step.stage for step in steps} <= set(JOB_STAGES)
        assert "synthesize" in {step.stage for step in steps}
        assert all(0 <= step.done <= step.total for step in steps if step.total)

    @pytest.mark.parametrize("after", [0.0, 0.5])
    def test_a_canceled_render_ends_and_leaves_nothing(
        self, engine: Engine, clips: Clips, tmp_path: Path, after: float
    ) -> None:
        def cancel(step: Progress) -> None:
            if step.fraction >= after:
                raise RenderCanceled("The caller wants no more of it.")

        with pytest.raises(RenderCanceled):
            render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", LOSSLESS, cancel)
        assert not list(tmp_path.iterdir()), "a canceled render left files behind"
        render_files(engine, clips.face, clips.speech, tmp_path / "result.mp4", LOSSLESS, ignore_progress)
        assert [path.name for path in tmp_path.iterdir()] == ["result.mp4"]

    # Split jobs

    def test_segments_give_the_pictures_of_one_render(
        self, engine: Engine, clips: Clips, tmp_path: Path, lossless: tuple[RenderReport, Path]
    ) -> None:
        if not isinstance(engine, SegmentedEngine):
            pytest.skip("the engine's renders cannot be split")
        analysis, whole, joined = (tmp_path / name for name in ("analysis", "whole.mp4", "joined.mp4"))
        with plan_clip(clips.face, clips.speech, LOSSLESS, DEFAULT_LIMITS) as plan:
            drawn = [engine.analyze_clip(plan, analysis, LOSSLESS, ignore_progress)]
            pictures: list[Frame] = []
            for segment in (range(12), range(12, FRAMES)):
                part = tmp_path / f"{segment.start}.mp4"
                steps: list[Progress] = []
                engine.render_segment(analysis, clips.face, segment, part, LOSSLESS, steps.append)
                assert steps[-1].fraction == pytest.approx(1.0)
                pictures += open_video(part, DEFAULT_LIMITS).frames()
            expected = list(open_video(lossless[1], DEFAULT_LIMITS).frames())
            assert not any(difference(a, b).any() for a, b in zip(pictures, expected, strict=True))
            drawn.append(engine.render_segment(analysis, clips.face, range(FRAMES), whole, LOSSLESS, ignore_progress))
            report = engine.join_clip(plan, analysis, [whole], joined, LOSSLESS, drawn, ignore_progress)
        assert (report.frames, report.engine) == (FRAMES, engine.capabilities.name)
        assert not any(change.any() for change in changes(lossless[1], joined))

    def test_errors_are_named(self, engine: Engine, clips: Clips, tmp_path: Path) -> None:
        """Whatever is wrong with a file, the worker gets an error of the library, which has a code."""
        damaged = tmp_path / "damaged.mp4"
        damaged.write_bytes(clips.face.read_bytes()[:2000])
        with pytest.raises(RetalkingError):
            render_files(engine, damaged, clips.speech, tmp_path / "result.mp4", LOSSLESS, ignore_progress)
        assert list(tmp_path.iterdir()) == [damaged]


def make_clips(folder: Path) -> Clips:
    pictures = [_picture(WIDTH / 2 - 10 + k) for k in range(FRAMES)]
    blank = [_backdrop()] * FRAMES
    still = folder / "still.png"
    cv2.imwrite(str(still), pictures[0])
    return Clips(
        face=write_clip(folder / "face.mp4", pictures),
        faceless=write_clip(folder / "faceless.mp4", blank),
        partly=write_clip(folder / "partly.mp4", pictures[:FACELESS_FROM] + blank[FACELESS_FROM:]),
        still=still,
        speech=write_speech(folder / "speech.wav", FRAMES / FPS),
    )


def write_clip(path: Path, pictures: Sequence[NDArray[np.uint8]]) -> Path:
    """H.264 without loss. pictures: BGR u8 [H, W, 3] with even sides."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_speech(path: Path, seconds: float) -> Path:
    """A voice of 120 Hz on the vowel a, 0.2 s on and 0.1 s off. PCM 16 bit, mono, 16 kHz."""
    count = round(seconds * RATE_HZ)
    times_s = np.arange(count) / RATE_HZ
    pulses = np.zeros(count)
    pulses[:: RATE_HZ // 120] = 1
    bins_hz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    vowel = sum((1 + ((bins_hz - formant_hz) / 90) ** 2) ** -0.75 for formant_hz in (780, 1250, 2600))
    voice = np.fft.irfft(np.fft.rfft(pulses) * vowel, count) * (times_s % 0.3 < 0.2)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((voice / np.abs(voice).max() * 16_000).astype("<i2").tobytes())
    return path


def _backdrop() -> NDArray[np.uint8]:
    """BGR gradient without anything like a face."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return np.dstack([150 + 40 * x, 140 + 30 * y, 160 - 30 * x * y]).astype(np.uint8)


def _picture(x: float) -> NDArray[np.uint8]:
    """The portrait's head, face about 110 px high and centered at x, on the backdrop."""
    portrait: NDArray[np.uint8] = data.astronaut()
    head = cv2.resize(portrait[20:230, 120:330, ::-1], None, fx=1.1, fy=1.1, interpolation=cv2.INTER_CUBIC)
    picture = _backdrop()
    left, top = round(x) - 113, HEIGHT - head.shape[0]
    picture[top:, left : left + head.shape[1]] = head
    return picture


def changes(before: Path, after: Path) -> list[NDArray[np.int16]]:
    """How much each frame of one file differs from that of the other, levels i16 [H, W]."""
    one, other = (open_video(path, DEFAULT_LIMITS).frames() for path in (before, after))
    return [difference(a, b) for a, b in zip(one, other, strict=True)]


def difference(one: Frame, other: Frame) -> NDArray[np.int16]:
    """Largest absolute difference of the three planes, i16 [H, W]; a chroma sample counts for its four pixels."""
    color = np.maximum(
        np.abs(one.u.astype(np.int16) - other.u.astype(np.int16)),
        np.abs(one.v.astype(np.int16) - other.v.astype(np.int16)),
    )
    luma = np.abs(one.y.astype(np.int16) - other.y.astype(np.int16))
    return np.maximum(luma, color.repeat(2, axis=0).repeat(2, axis=1))


def face_regions(video: Path, margin: float) -> list[NDArray[np.bool_]]:
    """Per frame where an engine with this `face_margin` may draw, bool [H, W]."""
    source = open_video(video, DEFAULT_LIMITS)
    tracker = DlibFaceTracker()
    tracker.warm_up()
    track = tracker.track(source, TrackRequest(range(source.info.frame_count)), lambda *_: None)
    regions = []
    for marks in track.landmarks:
        low, high = marks.min(axis=0), marks.max(axis=0)
        (left, top), (right, bottom) = low - margin * (high - low), high + margin * (high - low)
        inside = np.zeros((source.info.height, source.info.width), bool)
        inside[max(0, int(top)) : int(bottom) + 2, max(0, int(left)) : int(right) + 2] = True
        regions.append(inside)
    return regions


def with_option(options: RenderOptions, option: str, value: Any) -> RenderOptions:
    """The options with one of them changed; a dotted name reaches inside. Paths become text."""
    name, _, inner = option.partition(".")
    value = str(value) if isinstance(value, Path) else value
    return replace(options, **{name: replace(getattr(options, name), **{inner: value}) if inner else value})


def typed(option: str, text: str) -> Any:
    """A value as `unsupported_options` writes it (JSON, words without quotes). Raises where the option has no such."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    with_option(RenderOptions(), option, value)
    return value


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
