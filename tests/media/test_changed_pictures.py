"""Pictures that geometry alone does not cover: fields, sizes that change, alpha, color profiles, damage."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from retalking_core.clip_plan import plan_clip
from retalking_core.errors import InputError, UnsupportedContainerError
from retalking_core.media.cursor import find_field_order
from retalking_core.media.limits import DEFAULT_LIMITS as LIMITS
from retalking_core.media.planes import region_to_bgr
from retalking_core.media.reader import StillReader, VideoReader, open_video
from retalking_core.media.speech import read_speech
from retalking_core.media.writer import output_size
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.types import Frame, RenderReport
from tests.media import clips


def texture(width: int, height: int, shift: float) -> np.ndarray:
    """Luma u8 [h, w] of bars that move sideways."""
    x = np.arange(width)[None] - shift
    return np.broadcast_to(120 + 80 * np.sign(np.sin(x / 9)), (height, width)).astype(np.uint8)


def write_luma(path: Path, pictures: list[np.ndarray], options: dict[str, str], codec: str = "libx264") -> Path:
    """H.264 of gray pictures. Each may have a size of its own, in a codec that allows it."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt = "yuv420p"
        for number, luma in enumerate(pictures):
            picture = av.VideoFrame.from_ndarray(luma, "gray").reformat(
                format="yuv420p", src_color_range=1, dst_color_range=1
            )
            picture.pts, picture.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def woven(count: int, top_first: bool = True) -> list[np.ndarray]:
    """Pictures of two fields, 20 ms apart."""
    pictures = []
    for number in range(count):
        first, second = (texture(192, 288, 3.0 * (2 * number + field)) for field in (0, 1))
        picture = first.copy()
        picture[int(top_first) :: 2] = second[int(top_first) :: 2]
        pictures.append(picture)
    return pictures


INTERLACED = {
    "top field first": ({"flags": "+ildct+ilme", "x264-params": "tff=1"}, True, "tff"),
    "bottom field first": ({"flags": "+ildct+ilme", "x264-params": "bff=1"}, False, "bff"),
    "without flags": ({"crf": "10"}, True, "tff"),
    "with the wrong flag": ({"flags": "+ildct+ilme", "x264-params": "tff=1"}, False, "bff"),
}


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_video_is_deinterlaced(name: str, tmp_path: Path) -> None:
    options, top_first, order = INTERLACED[name]
    path = write_luma(tmp_path / "fields.mp4", woven(40, top_first), options)
    video = open_video(path, LIMITS)
    assert video.info.field_order == order
    assert [note.code for note in video.info.notes] == ["video_deinterlaced"]
    frames = list(video.frames())
    assert (len(frames), video.info.fps, len(video.damaged)) == (40, 25, 0)
    assert find_field_order(map(gray, frames)) == "", "idet finds no fields in what is drawn on"
    for number in (0, 7, 39):
        (alone,) = video.frames_at([number])
        assert np.array_equal(alone.y, frames[number].y), "a seek gives the same picture"
    assert all(np.array_equal(a.y, b.y) for a, b in zip(video.frames_at(range(39, -1, -1)), frames[::-1], strict=True))


def gray(frame: Frame) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.array(frame.y), "gray")
    picture.pts, picture.time_base = frame.index, Fraction(1, 25)
    return picture


@pytest.mark.parametrize("options", [{}, {"flags": "+ildct+ilme", "x264-params": "tff=1"}])
def test_progressive_film_keeps_its_pixels_even_in_an_interlaced_stream(options: dict, tmp_path: Path) -> None:
    """25PsF: two fields of one instant."""
    path = write_luma(tmp_path / "film.mp4", [texture(192, 288, 5.0 * k) for k in range(30)], options)
    video = open_video(path, LIMITS)
    assert video.info.field_order == ""
    assert all(np.array_equal(a.y, b) for a, b in zip(video.frames(), clips.decoded_luma(path), strict=True))


def joined_sizes(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """VP8 whose pictures change their size: each part from an encoder of its own, 10 pictures, white on the border."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx", rate=25)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuv420p"
        out.start_encoding()
        for part, (width, height) in enumerate(sizes):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
            encoder.options = {"auto-alt-ref": "0", "lag-in-frames": "0", "crf": "4", "b": "4M"}
            rgb = np.full((height, width, 3), 220, np.uint8)
            rgb[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 60
            for number in range(10):
                picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = number, Fraction(1, 25)
                for packet in encoder.encode(picture):
                    packet.pts = packet.dts = 40 * (10 * part + number)
                    packet.time_base, packet.stream = Fraction(1, 1000), stream
                    out.mux(packet)
    return path


def bright(frame: Frame) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px of what is no bar."""
    seen = frame.y > 40
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


SIZES = {
    "the phone is turned": ((320, 320), (180, 320), (70, 0, 250, 320)),
    "wider": ((320, 240), (320, 180), (0, 30, 320, 210)),
    "larger and narrower": ((160, 160), (360, 640), (35, 0, 125, 160)),
    "half the size": ((320, 240), (160, 120), (0, 0, 320, 240)),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_changes_keeps_the_shape(name: str, tmp_path: Path) -> None:
    first, second, box = SIZES[name]
    video = open_video(joined_sizes(tmp_path / "call.webm", [first, second, first]), LIMITS)
    frames = list(video.frames())
    assert (len(frames), video.info.width, video.info.height) == (30, *first)
    assert isinstance(video, VideoReader)
    assert video.fitted == set(range(10, 20))
    assert bright(frames[25]) == (0, 0, *first)
    assert np.abs(np.subtract(bright(frames[15]), box)).max() <= 2
    (alone,) = video.frames_at([15])
    assert np.array_equal(alone.y, frames[15].y)


ALPHA = {
    "VP9": ("a.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
    "VP8": ("a.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    "ProRes 4444": ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
    "Animation": ("a.mov", "qtrle", "argb", {}),
}


@pytest.mark.parametrize("name", ALPHA)
def test_alpha_is_composed_over_black(name: str, tmp_path: Path) -> None:
    file, codec, pixel_format, options = ALPHA[name]
    path = tmp_path / file
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        if path.suffix == ".webm":
            stream.metadata["alpha_mode"] = "1"
        rgba = np.full((64, 96, 4), 200, np.uint8)
        rgba[:, :48, 3] = 0
        for number in range(30):
            picture = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pixel_format)
            picture.pts, picture.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    video = open_video(path, LIMITS)
    for frame in (*video.frames(), *video.frames_at([20, 3])):
        assert abs(int(frame.y[32, 10]) - 16) <= 2, "hidden color"
        assert abs(int(frame.y[32, 80]) - 151) <= 4, "200 of 255 opaque"
    assert not video.damaged


def still_pixel(path: Path) -> np.ndarray:
    """RGB at the center."""
    video = open_video(path, LIMITS)
    assert isinstance(video, StillReader)
    info, (frame,) = video.info, video.frames()
    bgr = region_to_bgr(frame, (0, 0, info.width, info.height), info.color)
    return bgr[info.height // 2, info.width // 2, ::-1].astype(int)


def wide_profile() -> bytes:
    """An RGB profile whose red and green trade places: no conversion can be mistaken for it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[132 + 12 * k : 136 + 12 * k]): 132 + 12 * k for k in range(profile[131])}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".heic"])
def test_a_color_profile_is_converted(suffix: str, tmp_path: Path) -> None:
    if suffix == ".heic":
        pillow_heif.register_heif_opener()
    path = tmp_path / f"still{suffix}"
    Image.new("RGB", (96, 64), (180, 90, 60)).save(path, icc_profile=wide_profile(), quality=95)
    assert np.abs(still_pixel(path) - (90, 180, 60)).max() <= 5
    plain = tmp_path / f"plain{suffix}"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (96, 64), (180, 90, 60)).save(plain, icc_profile=srgb, quality=95)
    assert np.abs(still_pixel(plain) - (180, 90, 60)).max() <= 5


def test_cmyk_is_converted_and_a_guess_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("RGB", (96, 64), (180, 90, 60)).convert("CMYK").save(path, quality=95)
    assert np.abs(still_pixel(path) - (180, 90, 60)).max() <= 6
    assert [note.code for note in open_video(path, LIMITS).info.notes] == ["color_profile_unusable"]
    broken = tmp_path / "broken.jpg"
    Image.new("RGB", (96, 64), (180, 90, 60)).save(broken, icc_profile=b"no profile at all" * 20)
    assert [note.code for note in open_video(broken, LIMITS).info.notes] == ["color_profile_unusable"]


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".heic"])
def test_a_still_with_a_profile_is_upright(suffix: str, tmp_path: Path) -> None:
    if suffix == ".heic":
        pillow_heif.register_heif_opener()
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48] = 220
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"turned{suffix}"
    image = Image.fromarray(pixels)
    if suffix == ".heic":
        image.info["exif"] = exif.tobytes()  # written as the box `irot`, which alone counts in HEIF
        image.save(path, icc_profile=wide_profile(), quality=95)
    else:
        image.save(path, exif=exif, icc_profile=wide_profile(), quality=95)
    (frame,) = open_video(path, LIMITS).frames()
    assert frame.y.shape == (96, 64)
    assert frame.y[10].mean() > 150, "the left half is the upper one"
    assert frame.y[85].mean() < 60


@pytest.mark.parametrize(("suffix", "name"), [(".webp", "animated WebP"), (".png", "APNG"), (".gif", "GIF")])
def test_animations_are_refused_by_name(suffix: str, name: str, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 64), (k * 40, 90, 60)) for k in range(4)]
    path = tmp_path / f"moving{suffix}"
    profile = {} if suffix == ".gif" else {"icc_profile": wide_profile() + bytes(20_000)}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, **profile)
    with pytest.raises(UnsupportedContainerError, match=name) as refused:
        open_video(path, LIMITS)
    assert "MP4" in refused.value.message


SOUNDS = {
    "flac": ("flac", "flac"),
    "aac": ("adts", "aac"),
    "mp3": ("mp3", "libmp3lame"),
    "wav": ("wav", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
    "amr": ("amr", "libopencore_amrnb"),
}


def encoded(name: str, options: dict[str, str] | None = None) -> bytes:
    container, codec = SOUNDS[name]
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, 8000)
        stream.layout = "mono"
        tone = clips.make_tone(8000, 8000)[:, 0]
        size = stream.codec_context.frame_size or 160
        for at in range(0, 8000, size):
            block = np.rint(tone[at : at + size] * 20000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, at, Fraction(1, 8000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def tag(size: int) -> bytes:
    """An ID3v2.3 tag with a cover of `size` bytes."""
    body = b"APIC" + size.to_bytes(4, "big") + b"\0\0" + b"\xff" * size
    return b"ID3\3\0\0" + bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0)) + body


BEFORE = {
    "ID3 before FLAC": ("flac", tag(300)),
    "ID3 with a large cover before FLAC": ("flac", tag(200_000)),
    "two ID3 tags before FLAC": ("flac", tag(30) + tag(40)),
    "ID3 before AAC": ("aac", tag(300)),
    "ID3 with a large cover before MP3": ("mp3", tag(200_000)),
    "ID3 before WAV": ("wav", tag(300)),
    "zeros before MP3": ("mp3", bytes(7000)),
    "junk before MP3": ("mp3", np.random.default_rng(1).bytes(3000)),
    "junk before AAC": ("aac", np.random.default_rng(2).bytes(3000)),
    "AAC": ("aac", b""),
    "AIFF": ("aiff", b""),
    "CAF": ("caf", b""),
    "AMR": ("amr", b""),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_stands_before_sound_is_skipped(name: str, tmp_path: Path) -> None:
    kind, before = BEFORE[name]
    path = tmp_path / "speech.bin"
    path.write_bytes(before + encoded(kind, {"id3v2_version": "0"} if kind == "mp3" else None))
    with read_speech(path, LIMITS) as speech:
        assert speech.duration_s == pytest.approx(1.0, abs=0.3)
        assert np.abs(speech.waveform.samples).max() > 0.1


def test_damage_is_counted_in_the_notes(tmp_path: Path) -> None:
    video = clips.make_video(
        tmp_path / "clip.mp4", frames=50, size=(320, 240), options={"g": "25", "bf": "0", "sc_threshold": "0"}
    )
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as media:
        packets = [packet for packet in media.demux(video=0) if packet.size]
    data[packets[10].pos + 4 : packets[10].pos + packets[10].size] = b"\xff" * (packets[10].size - 4)
    video.write_bytes(data)
    speech = clips.make_wav(tmp_path / "speech.wav", 2.0)
    with plan_clip(video, speech, RenderOptions(), LIMITS) as clip:
        list(clip.source.frames())
        damaged, smeared = clip.source.damaged, clip.source.smeared
        report = RenderReport("preview", "1", "cpu", 50, Fraction(25), 2.0, 320, 240, 0.0, [], {})
        notes = {note.code: note for note in clip.complete(report).notes}
    assert damaged == {10}
    assert smeared == set(range(11, 25)), "up to the next key frame"
    assert notes["video_damaged"].sentence.startswith("1 of 50 frames")
    assert notes["video_damaged"].ranges_s == ((0.4, 0.44),)
    assert notes["video_smeared"].ranges_s == ((0.44, 1.0),)


def test_notes_about_the_speech_end_with_the_result(tmp_path: Path) -> None:
    """What lies behind its end is not in it: the speech goes on, and the result does not."""
    video = clips.make_video(tmp_path / "clip.mp4", frames=50, size=(320, 240))
    speech = clips.make_wav(tmp_path / "speech.wav", 2.0)
    report = RenderReport("preview", "1", "cpu", 50, Fraction(25), 2.0, 320, 240, 0.0, [], {})
    with plan_clip(video, speech, RenderOptions(), LIMITS) as clip:
        gaps = Note("audio_gap_filled", "Silence was inserted.", ((0.5, 0.7), (1.9, 2.5), (3.0, 4.0)))
        notes = replace(clip, notes=(gaps,)).complete(report).notes
    assert [note.ranges_s for note in notes if note.code == gaps.code] == [((0.5, 0.7), (1.9, 2.0))]


@pytest.mark.parametrize(
    ("size", "fps", "asked", "result"),
    [
        ((4000, 3000), 25, None, (3542, 2656)),
        ((4000, 3000), 25, 3000, (4000, 3000)),
        ((3840, 2160), 25, None, (3840, 2160)),
        ((3840, 2160), 60, None, (3840, 2160)),
        ((3840, 2160), 120, None, (2788, 1568)),
        ((3840, 2160), 120, 2160, (3840, 2160)),
        ((1920, 1080), 240, None, (1920, 1080)),
        ((4096, 2304), 25, None, (4096, 2304)),
        ((2160, 3840), 25, None, (2160, 3840)),
    ],
)
def test_a_result_is_of_level_5_2_unless_more_is_asked_for(
    size: tuple[int, int], fps: int, asked: int | None, result: tuple[int, int], tmp_path: Path
) -> None:
    path = clips.make_png(tmp_path / "still.png", np.zeros((size[1], size[0], 3), np.uint8))
    assert output_size(open_video(path, LIMITS, fps).info, asked) == result


def test_a_damaged_header_that_points_before_the_file_is_a_named_error(tmp_path: Path) -> None:
    """Damaged CAF chunks asked for seeks to negative offsets."""
    rng, base = np.random.default_rng(3), encoded("caf")
    for trial in range(120):
        data = bytearray(base)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 12)):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"{trial}.caf"
        path.write_bytes(data)
        with suppress(InputError), read_speech(path, LIMITS):
            pass
