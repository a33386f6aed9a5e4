"""The result file: length, rate, tags, sound, and nothing left behind on failure."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from retalking_core.clip_plan import plan_timeline
from retalking_core.errors import AudioInvalidError, EngineFaultError, RetalkingError
from retalking_core.media import writer as writer_module
from retalking_core.media.encoder import PictureSettings
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import SoundStore, load_waveform, nearest_aac_rate, read_speech
from retalking_core.media.writer import ResultFile, ResultWriter, SegmentWriter, SpeechTrack, output_size
from retalking_core.options import OutputOptions
from retalking_core.types import ColorTags, Timeline, VideoInfo
from tests.media import clips

LIMITS = MediaLimits()
ROOT = Path(__file__).resolve().parents[2]


def render(video: Path, speech: Path, result: Path, metadata: dict[str, str] | None = None, **options: object) -> None:
    """Every output picture is its source picture: what an engine does that changes nothing."""
    source = open_video(video, LIMITS)
    output = OutputOptions(**options)
    timeline = plan_timeline(source.info, load_waveform(speech, LIMITS).duration_s, "bounce", output.fps)
    with (
        read_speech(speech, LIMITS) as spoken,
        ResultWriter(result, source.info, timeline, spoken.sound, output, metadata or {}) as writer,
    ):
        for frame in source.frames_at(timeline.source_index):
            writer.write(frame)


def stream_ends_s(path: Path) -> tuple[float, float]:
    """(video, audio) durations as the container states them."""
    with av.open(str(path)) as media:
        ends = []
        for stream in (media.streams.video[0], media.streams.audio[0]):
            if stream.duration is not None:
                ends.append(float(stream.duration * stream.time_base))
            else:
                hours, minutes, seconds = stream.metadata["DURATION"].split(":")
                ends.append(int(hours) * 3600 + int(minutes) * 60 + float(seconds))
        return ends[0], ends[1]


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("seconds", "fps"), [(1.0, Fraction(25)), (1.234, Fraction(1350, 61)), (0.5, Fraction(60))])
def test_sound_and_pictures_are_equally_long(tmp_path: Path, container: str, seconds: float, fps: Fraction) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=20, fps=fps)
    speech = clips.make_wav(tmp_path / "speech.wav", seconds, rate_hz=44100, channels=2)
    result = tmp_path / f"result.{container}"
    render(video, speech, result, container=container)
    video_s, audio_s = stream_ends_s(result)
    # 23 ms: the encoder's lead-in, which Matroska counts.
    tolerance_s = max(float(1 / fps), 1024 / 44100 + 0.002) if container == "mkv" else float(1 / fps)
    assert abs(video_s - audio_s) <= tolerance_s
    assert abs(video_s - seconds) <= float(1 / fps)
    with av.open(str(result)) as media:
        times = sorted(packet.pts * packet.time_base for packet in media.demux(video=0) if packet.pts is not None)
        assert len(times) == round(seconds * fps)
        steps = {round(float(step) * 1000) for step in np.diff(times)}
        assert steps <= {int(1000 / fps), int(1000 / fps) + 1}


@pytest.mark.parametrize(
    ("rate_hz", "channels", "written_hz", "written_channels"),
    [(44100, 2, 44100, 2), (8000, 1, 8000, 1), (96000, 2, 96000, 2), (11000, 1, 11025, 1), (192000, 1, 96000, 1),
     (48000, 6, 48000, 2), (48000, 3, 48000, 2), (48000, 4, 48000, 2)],
)  # fmt: skip
def test_speech_keeps_its_rate_and_channels(
    tmp_path: Path, rate_hz: int, channels: int, written_hz: int, written_channels: int
) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=10)
    speech = clips.make_wav(tmp_path / "speech.wav", 1.0, rate_hz, channels)
    render(video, speech, tmp_path / "result.mp4")
    with av.open(str(tmp_path / "result.mp4")) as media:
        stream = media.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.codec_context.channels) == (
            "aac",
            written_hz,
            written_channels,
        )
        sound = np.concatenate([frame.to_ndarray() for frame in media.decode(stream)], axis=1)
    # The tone comes back at its own level, at its own place.
    tone = clips.make_tone(written_hz, written_hz, 1)[:, 0]
    heard = sound[0, : len(tone)]
    middle = slice(written_hz // 4, written_hz * 3 // 4)
    gain = np.dot(heard[middle], tone[middle]) / np.dot(tone[middle], tone[middle])
    if channels <= 2:
        assert np.corrcoef(heard[middle], tone[middle])[0, 1] > 0.98
        assert gain == pytest.approx(30000 / 32768, rel=0.05)
    else:
        assert gain > 0.2
        assert np.abs(heard).max() <= 1.05, "scaled down where it would clip"


def test_nearest_aac_rate() -> None:
    assert [nearest_aac_rate(rate) for rate in (44100, 6000, 22000, 50000, 192000)] == [
        44100,
        8000,
        22050,
        48000,
        96000,
    ]


def test_silence_follows_a_speech_that_is_shorter(tmp_path: Path) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=50)
    speech = clips.make_wav(tmp_path / "speech.wav", 1.0)
    source = open_video(video, LIMITS)
    timeline = plan_timeline(source.info, 1.0, "silence")
    result = tmp_path / "result.mp4"
    with (
        read_speech(speech, LIMITS) as spoken,
        ResultWriter(result, source.info, timeline, spoken.sound, OutputOptions(), {}) as writer,
    ):
        for frame in source.frames_at(timeline.source_index):
            writer.write(frame)
    with av.open(str(result)) as media:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in media.decode(audio=0)])
    assert np.abs(sound[4000:15000]).max() > 0.2
    assert np.abs(sound[17000:31000]).max() < 1e-3
    assert stream_ends_s(result) == pytest.approx((2.0, 2.0), abs=0.04)


def test_speech_from_a_video_and_a_photo_as_face(tmp_path: Path) -> None:
    photo = clips.make_jpeg(tmp_path / "face.jpg", clips.gradient_rgb(0, 96, 64), orientation=6)
    speech = clips.make_video(tmp_path / "speech.mp4", frames=30, speech_s=1.2)
    render(photo, speech, tmp_path / "result.mp4")
    with av.open(str(tmp_path / "result.mp4")) as media:
        stream = media.streams.video[0]
        assert (stream.width, stream.height) == (64, 96)
        assert stream.average_rate == 25
        assert stream.frames == pytest.approx(30, abs=1)


def test_color_tags_metadata_and_faststart(tmp_path: Path) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=10, color=(9, 9, 16, 2))
    speech = clips.make_wav(tmp_path / "speech.wav", 0.4)
    tags = {"title": "A talk", "retalking_engine": "preview", "retalking_job": "01J"}
    for container in ("mp4", "mov", "mkv"):
        result = tmp_path / f"result.{container}"
        render(video, speech, result, tags, container=container)
        with av.open(str(result)) as media:
            picture = next(media.decode(video=0))
            found = {key.lower(): value for key, value in media.metadata.items()}
        assert (picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range) == (9, 9, 16, 2)
        assert picture.format.name in ("yuv420p", "yuvj420p")
        assert tags.items() <= found.items()
        if container != "mkv":
            data = result.read_bytes()
            assert data.index(b"moov") < data.index(b"mdat")


def test_the_picture_survives_the_encoder(tmp_path: Path) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=10, size=(320, 240))
    render(video, clips.make_wav(tmp_path / "speech.wav", 0.4), tmp_path / "result.mp4")
    written = list(open_video(tmp_path / "result.mp4", LIMITS).frames())
    for before, after in zip(open_video(video, LIMITS).frames(), written, strict=True):
        difference = before.y.astype(float) - after.y
        assert 10 * np.log10(255**2 / (difference**2).mean()) > 40
        assert abs(difference.mean()) < 0.3


def test_max_height_scales_down_never_up(tmp_path: Path) -> None:
    info = VideoInfo(1920, 1080, Fraction(25), np.zeros(1), 0.04, 0, ColorTags(), True, "png", "png")
    assert output_size(info, None) == (1920, 1080)
    assert output_size(info, 2160) == (1920, 1080)
    assert output_size(info, 720) == (1280, 720)
    assert output_size(info, 481) == (854, 480)
    video = clips.make_video(tmp_path / "clip.mp4", frames=6, size=(1280, 720))
    render(video, clips.make_wav(tmp_path / "speech.wav", 0.2), tmp_path / "result.mp4", max_height=360)
    with av.open(str(tmp_path / "result.mp4")) as media:
        picture = next(media.decode(video=0))
    assert (picture.width, picture.height) == (640, 360)
    # Untagged 720 rows are BT.709; at 360 rows a player would take BT.601, so the result says which.
    assert picture.colorspace == 1


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=10)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.4)
    source = open_video(video, LIMITS)
    timeline = plan_timeline(source.info, 0.4, "loop")
    frames = list(source.frames())
    folder = tmp_path / "results"
    folder.mkdir()
    result = folder / "result.mp4"
    result.write_bytes(b"an earlier result")

    def write(numbers: list[int], error: Exception | None = None) -> None:
        with (
            read_speech(speech, LIMITS) as spoken,
            ResultWriter(result, source.info, timeline, spoken.sound, OutputOptions(), {}) as writer,
        ):
            for number in numbers:
                writer.write(frames[number])
            if error:
                raise error

    with pytest.raises(EngineFaultError, match="9 output pictures were made, 10 were planned"):
        write(list(range(9)))
    with pytest.raises(EngineFaultError, match="More than 10"):
        write([0] * 11)
    with pytest.raises(KeyboardInterrupt):
        write([0, 1], KeyboardInterrupt())
    assert result.read_bytes() == b"an earlier result"
    write(list(range(10)))
    assert [path.name for path in folder.iterdir()] == ["result.mp4"]
    assert len(result.read_bytes()) > 1000


def test_frames_of_another_size_are_an_engine_fault(tmp_path: Path, opened: ExitStack) -> None:
    small = open_video(clips.make_video(tmp_path / "small.mp4", frames=2, size=(64, 48)), LIMITS)
    big = open_video(clips.make_video(tmp_path / "big.mp4", frames=2), LIMITS)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.2)
    timeline = plan_timeline(big.info, 0.2, "loop")
    sound = opened.enter_context(read_speech(speech, LIMITS)).sound
    writer = ResultWriter(tmp_path / "r.mp4", big.info, timeline, sound, OutputOptions(), {})
    with pytest.raises(EngineFaultError, match="64x48"), writer:
        writer.write(next(small.frames()))


def test_a_folder_that_does_not_exist_is_an_error_of_ours(tmp_path: Path, opened: ExitStack) -> None:
    source = open_video(clips.make_video(tmp_path / "clip.mp4", frames=2), LIMITS)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.2)
    timeline = plan_timeline(source.info, 0.2, "loop")
    sound = opened.enter_context(read_speech(speech, LIMITS)).sound
    with pytest.raises(RetalkingError, match="could not be written"):
        ResultWriter(tmp_path / "absent" / "r.mp4", source.info, timeline, sound, OutputOptions(), {})


@pytest.mark.parametrize("kind", [ResultWriter, SegmentWriter])
def test_a_constructor_that_fails_closes_what_it_opened(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    """The exception, which somebody may hold, holds the writer: what it opened stayed open, encoder and all."""
    source = open_video(clips.make_video(tmp_path / "clip.mp4", frames=10), LIMITS)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.4)
    timeline = plan_timeline(source.info, 0.4, "loop")
    discarded = []
    discard = ResultFile.discard

    def no_memory(*_: object) -> None:
        raise MemoryError

    def note(file: ResultFile) -> None:
        discarded.append(file)
        discard(file)

    sound = opened.enter_context(read_speech(speech, LIMITS)).sound
    monkeypatch.setattr(writer_module, "PictureEncoder", no_memory)
    monkeypatch.setattr(ResultFile, "discard", note)
    makers = {
        ResultWriter: lambda: ResultWriter(tmp_path / "r.mp4", source.info, timeline, sound, OutputOptions(), {}),
        SegmentWriter: lambda: SegmentWriter(tmp_path / "s.mp4", source.info, timeline, range(10), OutputOptions()),
    }
    with pytest.raises(MemoryError):
        makers[kind]()
    assert len(discarded) == 1


def test_an_encoder_without_memory_says_so(tmp_path: Path) -> None:
    """x264 takes 1.3 GB for 4K before the first picture comes."""
    speech = clips.make_wav(tmp_path / "speech.wav")
    video = tmp_path / "large.png"
    cv2.imwrite(str(video), np.zeros((2160, 3840, 3), np.uint8))
    code = f"""
import resource
from pathlib import Path
from retalking_core.media.reader import open_video
from tests.media.test_writer import LIMITS, render
resource.setrlimit(resource.RLIMIT_DATA, (700_000_000,) * 2)
render(Path({str(video)!r}), Path({str(speech)!r}), Path({str(tmp_path)!r}) / "result.mp4")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "OutOfMemoryError" in done.stderr, done.stderr
    assert "max_height" in done.stderr
    assert list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(("size", "threads"), [((700, 700), 12), ((3840, 2160), 12), ((8000, 4000), 4)])
def test_large_pictures_get_fewer_encoder_threads(tmp_path: Path, size: tuple[int, int], threads: int) -> None:
    with av.open(str(tmp_path / "out.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        PictureSettings(*size, size[1], ColorTags(1, 1, 1, False), Fraction(25), 18).apply(stream.codec_context)
        assert stream.codec_context.thread_count == threads


def test_bad_speech_is_noticed_before_the_file_is_begun(tmp_path: Path) -> None:
    source = open_video(clips.make_video(tmp_path / "clip.mp4", frames=2), LIMITS)
    speech = clips.make_float_wav(tmp_path / "speech.wav", np.full(8000, np.inf, np.float32))
    timeline = plan_timeline(source.info, 0.5, "loop")
    with pytest.raises(AudioInvalidError):
        ResultWriter(tmp_path / "r.mp4", source.info, timeline, read_speech(speech, LIMITS).sound, OutputOptions(), {})
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*"))


@pytest.mark.media
def test_the_shared_clips_come_out_as_long_as_the_speech(shared_media: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.mp4"
    render(shared_media / "1.mp4", shared_media / "1.wav", result)
    video_s, audio_s = stream_ends_s(result)
    speech_s = load_waveform(shared_media / "1.wav", LIMITS).duration_s
    assert abs(video_s - audio_s) <= 61 / 1350
    assert abs(video_s - speech_s) <= 61 / 1350


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("muxer", ["mov", "matroska", "mp4"])
def test_sound_that_was_pcm_stays_pcm_where_the_container_takes_it(muxer: str, bits: int, tmp_path: Path) -> None:
    full = 2 ** (bits - 1)
    samples = np.random.default_rng(1).integers(-full, full, (2, 48_000))
    sound, path = SoundStore(48_000, 2), tmp_path / "result"
    sound.write((samples / full).astype(np.float32))
    sound.pcm_bits = 16 if bits == 16 else 24
    with av.open(str(path), "w", format=muxer) as out:
        track = SpeechTrack(out, sound, Timeline(np.arange(25), Fraction(25)))
        out.start_encoding()
        track.begin()
        for packet in track.packets_until(None):
            out.mux(packet)
        track.close()
    sound.close()
    with av.open(str(path)) as made:
        codec = made.streams.audio[0].codec_context.name
        decoded = np.concatenate([frame.to_ndarray() for frame in made.decode(audio=0)], axis=1)
    assert codec == ("aac" if muxer == "mp4" else f"pcm_s{bits}le")
    if muxer != "mp4":
        # FFmpeg keeps 24 bits in the upper ones of 32.
        assert np.array_equal(decoded.reshape(-1, 2).T >> (8 if bits == 24 else 0), samples)
