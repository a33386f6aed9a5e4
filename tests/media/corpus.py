"""Situations of real files, made on the spot: what people send, and what must come of it.

`SITUATIONS` is the one list. A builder writes a file into a folder and returns its path; expectations are of the sound
(`Heard`), of the pictures (`Seen`), or the error that refuses the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener
from scipy.ndimage import gaussian_filter

from retalking_core.errors import CodecUnsupportedError, InputError, MediaUnreadableError
from tests.faces.clips import portrait
from tests.faces.covers import COVERS, Cover, covered
from tests.media.clips import gradient_rgb

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """samples: f32 [n] at 16 kHz, what the lips must follow, at any gain. notes: codes. silent_s: ranges without sound.
    tolerance_s: of length and place, more where the codec adds a delay that the file does not state. likeness: least
    correlation. track: number of the track."""

    samples: Samples
    notes: Sequence[str] = ()
    silent_s: Sequence[tuple[float, float]] = ()
    tolerance_s: float = 0.02
    likeness: float = 0.9
    track: int = 1


@dataclass(frozen=True)
class Seen:
    """fps: of the timeline. frames: in the file. notes: codes."""

    fps: Fraction
    frames: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Situation:
    """One kind of file. build: folder -> file. Exactly what is set is expected."""

    name: str
    build: Callable[[Path], Path]
    heard: Heard | None = None
    seen: Seen | None = None
    refused: type[InputError] | None = None
    options: dict[str, str] = field(default_factory=dict)


def utterance(seconds: float, rate_hz: int = 16_000, seed: int = 0, level: float = 0.2) -> Samples:
    """Syllables of band-limited noise, f32 [n]: correlates sharply, and rises and falls as speech does."""
    grid = np.random.default_rng(seed).normal(size=round(seconds * 16_000) + 1)
    kernel = np.hanning(49)
    smooth = np.convolve(grid, kernel / np.sqrt(np.square(kernel).sum()), mode="same")
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time_s + seed), 0, 1) ** 0.5
    return (level * syllables * np.interp(time_s * 16_000, np.arange(len(grid)), smooth)).astype(np.float32)


@dataclass
class Sound:
    """One sound track of a file to write. samples: f32 [channels, n]. starts_s: time stamp of the first sample.
    dropped_s: ranges whose packets are left out. spoiled_s: ranges whose packets are overwritten."""

    samples: Samples
    rate_hz: int = 48_000
    layout: str = "mono"
    codec: str = "aac"
    starts_s: float = 0.0
    dropped_s: Sequence[tuple[float, float]] = ()
    spoiled_s: Sequence[tuple[float, float]] = ()
    is_default: bool | None = None
    language: str | None = None
    options: dict[str, str] = field(default_factory=dict)


def write_file(
    path: Path,
    sounds: Sequence[Sound] = (),
    picture_times_s: Sequence[float] = (),
    options: dict[str, str] | None = None,
    muxer: str | None = None,
) -> Path:
    """Pictures (64x48, H.264 or VP8) at these times, and sound tracks, into one file."""
    with av.open(str(path), "w", format=muxer, options=options or {}) as out:
        film = None
        if len(picture_times_s):
            film = out.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=25)
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
            film.codec_context.time_base = Fraction(1, 90_000)
            film.time_base = Fraction(1, 90_000)
            if path.suffix != ".webm":
                film.options = {"bf": "0", "tune": "zerolatency"}
        streams = []
        for sound in sounds:
            stream = out.add_stream(sound.codec, rate=sound.rate_hz, options=sound.options)
            stream.codec_context.layout = sound.layout
            if sound.is_default is not None:
                stream.disposition = Disposition.default if sound.is_default else Disposition(0)
            if sound.language:
                stream.metadata["language"] = sound.language
            streams.append(stream)
        out.start_encoding()
        packets = [p for sound, stream in zip(sounds, streams, strict=True) for p in _sound_packets(sound, stream)]
        packets += _picture_packets(film, picture_times_s) if film is not None else []
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def _sound_packets(sound: Sound, stream: av.AudioStream) -> list[Packet]:
    made = []
    context = stream.codec_context
    size = context.frame_size or 1024
    shift = round(sound.starts_s * sound.rate_hz)
    blocks = [sound.samples[:, at : at + size] for at in range(0, sound.samples.shape[1], size)]
    kind = "fltp" if any(f.name == "fltp" for f in context.codec.audio_formats) else context.codec.audio_formats[0].name
    for number, block in enumerate([*blocks, None]):
        frame = None
        if block is not None:
            frame = _frame(block, kind, sound.layout)
            frame.sample_rate, frame.pts = sound.rate_hz, number * size
            frame.time_base = Fraction(1, sound.rate_hz)
        for packet in stream.encode(frame):
            time_s = float(packet.pts * packet.time_base)
            ticks = round(Fraction(shift, sound.rate_hz) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            if any(start <= time_s < end for start, end in sound.dropped_s):
                continue
            if any(start <= time_s < end for start, end in sound.spoiled_s):
                packet.update(b"\xff" * packet.size) if hasattr(packet, "update") else None
            made.append(packet)
    return made


def _frame(block: Samples, kind: str, layout: str) -> AudioFrame:
    block = np.ascontiguousarray(block, np.float32)
    if kind == "fltp":
        return AudioFrame.from_ndarray(block, format="fltp", layout=layout)
    if kind == "flt":
        return AudioFrame.from_ndarray(np.ascontiguousarray(block.T).reshape(1, -1), format="flt", layout=layout)
    whole = np.clip(np.rint(block * 32767), -32768, 32767).astype(np.int16)
    if kind == "s16p":
        return AudioFrame.from_ndarray(whole, format="s16p", layout=layout)
    return AudioFrame.from_ndarray(np.ascontiguousarray(whole.T).reshape(1, -1), format="s16", layout=layout)


def _picture_packets(stream: av.VideoStream, times_s: Sequence[float]) -> list[Packet]:
    packets = []
    for number, time_s in enumerate(times_s):
        picture = av.VideoFrame.from_ndarray(gradient_rgb(number, 64, 48), format="rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = round(time_s * 90_000), Fraction(1, 90_000)
        packets += stream.encode(picture)
    return packets + stream.encode(None)


def regular(count: int, fps: Fraction | float, starts_s: float = 0.0) -> list[float]:
    return [starts_s + float(number / fps) for number in range(count)]


def rounded(times_s: Sequence[float], ticks_per_s: int) -> list[float]:
    """As a time base of so many ticks a second states them."""
    return [round(time_s * ticks_per_s) / ticks_per_s for time_s in times_s]


def with_hold(count: int, fps: float, at: int, hold_s: float) -> list[float]:
    """One frame, `at`, is held; a hold of the last frame shows in the one that ends it."""
    return [number / fps + (hold_s if number > at else 0.0) for number in range(count)]


SPOKEN = utterance(3.0)
_AT_48 = utterance(3.0, 48_000)


def _silenced(samples: Samples, ranges_s: Sequence[tuple[float, float]]) -> Samples:
    result = samples.copy()
    for start, end in ranges_s:
        result[round(start * 16_000) : round(end * 16_000)] = 0
    return result


def _coded(rate_hz: int, delay: int, frame: int, speech: Samples | None = None) -> Samples:
    """SPOKEN as every player plays it from a stream that does not state the delay of its codec. delay, frame: samples
    at rate_hz."""
    speech = SPOKEN if speech is None else speech
    late_s, length_s = delay / rate_hz, len(speech) / 16_000
    whole_s = -(-round(length_s * rate_hz + delay) // frame) * frame / rate_hz
    before, behind = round(late_s * 16_000), round((whole_s - late_s - length_s) * 16_000)
    return np.concatenate([np.zeros(before, np.float32), speech, np.zeros(behind, np.float32)])


def _late(seconds: float) -> Samples:
    return np.concatenate([np.zeros(round(seconds * 16_000), np.float32), SPOKEN])


def _tracks(
    first: Samples, second: Samples, default: int, languages: tuple[str | None, str | None] = (None, None)
) -> list[Sound]:
    return [
        Sound(first[None], is_default=default == 1, language=languages[0]),
        Sound(second[None], is_default=default == 2, language=languages[1]),
    ]


def _stereo(left: Samples, right: Samples, path: Path, layout: str = "stereo") -> Path:
    return write_file(path, [Sound(np.stack([left, right]), layout=layout, codec="flac")])


def _mp3_without_length(folder: Path) -> Path:
    """Variable rate and no Xing header, as LAME writes it into a pipe; it begins with silence, so that the bit rate of
    the first frames says nothing about the rest."""
    samples = np.concatenate([np.zeros(48_000 * 3, np.float32), _AT_48])
    sound = Sound(samples[None], codec="libmp3lame", options={"global_quality": "0", "flags": "+qscale"})
    return write_file(folder / "pipe.mp3", [sound], options={"write_xing": "0"})


def _joined(path: Path, parts: Sequence[Path]) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _two(folder: Path, suffix: str, codec: str, behind: bytes = b"", before: bytes = b"") -> Path:
    """behind, before: bytes between the first file and the second."""
    halves = (_AT_48[:72_000], _AT_48[72_000:])
    parts = [write_file(folder / f"{k}{suffix}", [Sound(half[None], codec=codec)]) for k, half in enumerate(halves)]
    parts[1].write_bytes(behind + before + parts[1].read_bytes())
    return _joined(folder / f"joined{suffix}", parts)


def _id3(size: int) -> bytes:
    """An ID3v2.4 tag around a cover of noise."""
    return (
        b"ID3\4\0\0"
        + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
        + np.random.default_rng(3).bytes(size).replace(b"\xff", b"\0")
    )


def _without_length(path: Path, codec: str, rate_hz: int) -> Path:
    sound = Sound(utterance(3.0, rate_hz)[None], rate_hz, codec=codec)
    return write_file(path, [sound], options={"write_xing": "0"} if path.suffix == ".mp3" else None)


def _itunes(folder: Path) -> Path:
    """iTunSMPB instead of an edit list, as iTunes and many podcasts have it."""
    path = write_file(folder / "itunes.m4a", [Sound(_AT_48[None])], options={"use_editlist": "0"})
    data = path.read_bytes()
    text = f" 00000000 {1024:08X} {0:08X} {144_000:016X}".encode() + b" 00000000" * 8
    names = _box(b"mean", bytes(4) + b"com.apple.iTunes") + _box(b"name", bytes(4) + b"iTunSMPB")
    item = _box(b"----", names + _box(b"data", b"\0\0\0\1\0\0\0\0" + text))
    at = data.index(b"ilst") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    changed = bytearray(data[:end] + item + data[end:])
    for name in (b"moov", b"udta", b"meta", b"ilst"):
        size_at = (changed.index if name == b"moov" else changed.rindex)(name) - 4
        size = int.from_bytes(changed[size_at : size_at + 4], "big") + len(item)
        changed[size_at : size_at + 4] = size.to_bytes(4, "big")
    path.write_bytes(changed)
    return path


def _box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + name + body


def _two_films(path: Path, first: int) -> Path:
    """MJPEG of `first` pictures, marked as default where it is one, then H.264 of 25."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("mjpeg", rate=25), out.add_stream("libx264", rate=25)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, ("yuvj420p", "yuv420p")[number]
            stream.disposition = Disposition.default if number == (first > 1) else Disposition(0)
        out.start_encoding()
        for stream, count in zip(streams, (first, 25), strict=True):
            for number in range(count):
                picture = av.VideoFrame.from_ndarray(gradient_rgb(number, 64, 48), format="rgb24")
                picture = picture.reformat(format=stream.pix_fmt)
                picture.pts, picture.time_base = number, Fraction(1, 25)
                out.mux(stream.encode(picture))
            out.mux(stream.encode(None))
    return path


def _panned(folder: Path) -> Path:
    """Progressive pictures that move by two lines: every other line is where its neighbor was."""
    smooth = gaussian_filter(np.random.default_rng(3).normal(size=(600, 320)), 3)
    luma = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    picture = np.repeat(luma[..., None], 3, axis=2)
    return _encode(folder / "pan.mp4", [np.roll(picture, 2 * k, axis=0)[:320] for k in range(30)], "libx264", {})


def _spatial(path: Path, sounds: Sequence[Sound]) -> Path:
    """Whose first track is of a codec that no decoder knows, as the spatial sound of new phones."""
    data = write_file(path, sounds, _FILM).read_bytes()
    path.write_bytes(data.replace(b"mp4a", b"apac", 1).replace(b"esds", b"dapa", 1))
    return path


def _wav_of_size(folder: Path, size: bytes) -> Path:
    path = write_file(folder / "streamed.wav", [Sound(_AT_48[None], codec="pcm_s16le")])
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = size
    path.write_bytes(data)
    return path


def _center(folder: Path) -> Path:
    channels = np.zeros((6, len(_AT_48)), np.float32)
    channels[2] = _AT_48
    return write_file(folder / "cinema.flac", [Sound(channels, layout="5.1", codec="flac")])


# Delay of encoder and decoder, and length of a frame at 48 and at 8 kHz, in samples.
_LAME_DELAY, _LAME_FRAME, _LAME_SLOW_FRAME, _AAC_DELAY, _AAC_FRAME = 1105, 1152, 576, 1024, 1024
# Of length and place where a delay is known to the sample: the last frame of the codec may be padded.
_DELAY_S = 0.001
_SPOILED = (1.0, 1.5)
_DTX = ((0.6, 1.2), (1.8, 2.4))
_LONG = np.concatenate([_AT_48, np.zeros(48_000 * 70, np.float32)])
_RATES = (*(Fraction(rate * 1000, 1001) for rate in (24, 30, 60, 120)), Fraction(25))
_NOISE = np.random.default_rng(5).normal(scale=0.05, size=3 * 48_000).astype(np.float32)
_FILM = regular(75, 25)

SITUATIONS: list[Situation] = [
    Situation(
        "mp3 without a length",
        _mp3_without_length,
        Heard(_coded(48_000, _LAME_DELAY, _LAME_FRAME, _late(3.0)), tolerance_s=_DELAY_S),
    ),
    Situation(
        "MP3 without a length at 8 kHz",
        lambda d: _without_length(d / "pipe.mp3", "libmp3lame", 8_000),
        Heard(_coded(8_000, _LAME_DELAY, _LAME_SLOW_FRAME), tolerance_s=_DELAY_S),
    ),
    Situation(
        "MP3 in WAV",
        lambda d: _without_length(d / "wave.wav", "libmp3lame", 48_000),
        Heard(_coded(48_000, _LAME_DELAY, _LAME_FRAME)),
    ),
    *(
        Situation(
            f"AAC without a container at {rate_hz} Hz",
            lambda d, r=rate_hz: _without_length(d / "stream.aac", "aac", r),
            Heard(_coded(rate_hz, _AAC_DELAY, _AAC_FRAME), tolerance_s=_DELAY_S),
        )
        for rate_hz in (16_000, 48_000)
    ),
    Situation(
        "AAC lead-in in an edit list",
        lambda d: write_file(d / "listed.m4a", [Sound(_AT_48[None])]),
        Heard(SPOKEN, tolerance_s=_DELAY_S),
    ),
    Situation(
        "AAC lead-in without an edit list",
        lambda d: write_file(d / "recorder.m4a", [Sound(_AT_48[None])], options={"use_editlist": "0"}),
        Heard(_coded(48_000, _AAC_DELAY, _AAC_FRAME), tolerance_s=_DELAY_S),
    ),
    Situation(
        "AAC lead-in in a fragmented file",
        lambda d: write_file(d / "fragments.m4a", [Sound(_AT_48[None])], options={"movflags": "empty_moov"}),
        Heard(_coded(48_000, _AAC_DELAY, _AAC_FRAME), tolerance_s=_DELAY_S),
    ),
    Situation("AAC lead-in stated by iTunes", _itunes, Heard(SPOKEN, tolerance_s=_DELAY_S)),
    Situation("two Ogg files, one after the other", lambda d: _two(d, ".ogg", "libopus"), Heard(SPOKEN)),
    Situation(
        "two MP3 files, one after the other",
        lambda d: _two(d, ".mp3", "libmp3lame"),
        Heard(SPOKEN, tolerance_s=_DELAY_S),
    ),
    Situation(
        "two MP3 files with tags between them",
        lambda d: _two(d, ".mp3", "libmp3lame", behind=b"TAG" + bytes(125), before=_id3(60_000)),
        Heard(SPOKEN, tolerance_s=_DELAY_S),
    ),
    Situation("WAV of size 0", lambda d: _wav_of_size(d, bytes(4)), Heard(SPOKEN)),
    Situation("WAV of unknown size", lambda d: _wav_of_size(d, b"\xff" * 4), Heard(SPOKEN)),
    *(
        Situation(
            f"sound that starts late in {suffix}",
            lambda d, s=suffix, c=codec: write_file(
                d / f"late{s}", [Sound(_AT_48[None], codec=c, starts_s=1.2)], _FILM
            ),
            Heard(_late(1.2), ["audio_starts_late"], [(0.0, 1.1)]),
        )
        for suffix, codec in ((".mp4", "aac"), (".mov", "aac"), (".mkv", "aac"), (".webm", "libopus"))
    ),
    Situation(
        "sound alone whose first stamp is not 0",
        lambda d: write_file(d / "cut.mka", [Sound(_AT_48[None], starts_s=2.0)]),
        Heard(SPOKEN),
    ),
    Situation(
        "pictures that start late",
        lambda d: write_file(d / "late-film.mkv", [Sound(_AT_48[None])], regular(50, 25, 0.5)),
        Heard(SPOKEN),
    ),
    *(
        Situation(
            f"discontinuous transmission in {suffix}",
            lambda d, s=suffix, f=film: write_file(
                d / f"dtx{s}", [Sound(_AT_48[None], codec="libopus", dropped_s=_DTX)], f
            ),
            Heard(_silenced(SPOKEN, _DTX), ["audio_gap_filled"], [(0.65, 1.15), (1.85, 2.35)]),
        )
        for suffix, film in ((".webm", _FILM), (".mka", ()))
    ),
    Situation(
        "one lost packet",
        lambda d: write_file(d / "lost.mkv", [Sound(_AT_48[None], codec="libopus", dropped_s=[(1.0, 1.02)])]),
        Heard(SPOKEN),
    ),
    *(
        Situation(
            f"damaged packets of {name}",
            lambda d, s=suffix, c=codec: write_file(
                d / f"spoiled{s}", [Sound(_AT_48[None], codec=c, spoiled_s=[_SPOILED])]
            ),
            Heard(_silenced(expected, [_SPOILED]), notes, [(1.08, 1.45)]),
        )
        for name, suffix, codec, notes, expected in (
            ("AAC in MP4", ".mp4", "aac", ["audio_damaged"], SPOKEN),
            ("AAC without a container", ".aac", "aac", ["audio_damaged"], _coded(48_000, _AAC_DELAY, _AAC_FRAME)),
            ("MP3", ".mp3", "libmp3lame", ["audio_damaged"], SPOKEN),
            ("MP3 in Matroska", ".mkv", "libmp3lame", ["audio_damaged"], SPOKEN),
            ("AC-3 in Matroska", ".mkv", "ac3", ["audio_damaged"], SPOKEN),
            ("FLAC in Matroska", ".mkv", "flac", ["audio_damaged"], SPOKEN),
            ("FLAC", ".flac", "flac", ["audio_gap_filled"], SPOKEN),
            ("Opus in WebM", ".webm", "libopus", ["audio_gap_filled"], SPOKEN),
        )
    ),
    Situation(
        "sound of which more than half is damaged",
        lambda d: write_file(d / "ruined.mp4", [Sound(_AT_48[None], spoiled_s=[(0.2, 2.5)])]),
        refused=MediaUnreadableError,
    ),
    Situation(
        "sound that starts before the picture, cut by an edit list",
        lambda d: write_file(d / "before.mp4", [Sound(_AT_48[None], starts_s=-0.5)], _FILM),
        Heard(SPOKEN[8000:]),
    ),
    Situation(
        "sound that starts before the picture in Matroska",
        lambda d: write_file(d / "before.mkv", [Sound(_AT_48[None], starts_s=-0.5)], _FILM),
        Heard(SPOKEN),
    ),
    Situation(
        "stamps that jump by more than a minute",
        lambda d: write_file(
            d / "jump.mka",
            [
                Sound(
                    np.concatenate([_AT_48, np.zeros(48_000 * 70, np.float32)])[None],
                    codec="libopus",
                    dropped_s=[(3.0, 72.0)],
                )
            ],
        ),
        refused=MediaUnreadableError,
    ),
    *(
        Situation(
            f"default track 2 in {suffix}",
            lambda d, s=suffix: write_file(d / f"default{s}", _tracks(_NOISE, _AT_48, 2), _FILM),
            Heard(SPOKEN, ["audio_track_chosen"], track=2),
        )
        for suffix in (".mkv", ".mp4")
    ),
    Situation(
        "track 1 by number",
        lambda d: write_file(d / "number.mkv", _tracks(_AT_48, _NOISE, 2)),
        Heard(SPOKEN, ["audio_track_chosen"]),
        options={"audio_track": "1"},
    ),
    Situation(
        "track by language",
        lambda d: write_file(d / "language.mkv", _tracks(_NOISE, _AT_48, 1, ("eng", "fra"))),
        Heard(SPOKEN, ["audio_track_chosen"], track=2),
        options={"audio_track": "fr"},
    ),
    Situation(
        "an undecodable track beside a good one",
        lambda d: _spatial(d / "spatial.mp4", _tracks(_NOISE, _AT_48, 1)),
        Heard(SPOKEN, ["audio_track_chosen"], track=2),
    ),
    Situation(
        "one undecodable track",
        lambda d: _spatial(d / "spatial.mp4", [Sound(_AT_48[None])]),
        refused=CodecUnsupportedError,
    ),
    Situation(
        "a constant offset",
        lambda d: write_file(d / "offset.wav", [Sound(0.02 * _AT_48[None] + 0.3, codec="pcm_s24le")]),
        Heard(SPOKEN, ["audio_quiet"]),
    ),
    Situation(
        "clipped speech",
        lambda d: write_file(d / "clipped.wav", [Sound(np.clip(2 * _AT_48[None], -0.3, 0.3), codec="pcm_s16le")]),
        Heard(SPOKEN),
    ),
    Situation(
        "speech of 0.2 s",
        lambda d: write_file(d / "short.wav", [Sound(_AT_48[None, 24_000:33_600], codec="pcm_s16le")]),
        Heard(SPOKEN[8_000:11_200]),
    ),
    Situation(
        "30 s of silence before the speech",
        lambda d: write_file(d / "lead.flac", [Sound(np.pad(_AT_48, (30 * 48_000, 0))[None], codec="flac")]),
        Heard(_late(30.0)),
    ),
    Situation(
        "one channel inverted",
        lambda d: _stereo(_AT_48, -_AT_48, d / "antiphase.flac"),
        Heard(SPOKEN, ["audio_out_of_phase"]),
    ),
    Situation(
        "one channel almost inverted",
        lambda d: _stereo(_AT_48, -0.97 * _AT_48, d / "nearly.flac"),
        Heard(SPOKEN, ["audio_out_of_phase"]),
    ),
    Situation("one channel dead", lambda d: _stereo(np.zeros_like(_AT_48), _AT_48, d / "dead.flac"), Heard(SPOKEN)),
    Situation("speech in the center of 5.1", _center, Heard(SPOKEN)),
    Situation(
        "speech 30 dB too quiet",
        lambda d: write_file(d / "quiet.flac", [Sound(0.0316 * _AT_48[None], codec="flac")]),
        Heard(SPOKEN, ["audio_quiet"]),
    ),
    Situation(
        "slow motion of 240 fps in steps of 1/600 s",
        lambda d: write_file(d / "slow.mov", (), rounded(regular(61, 240), 600)),
        seen=Seen(Fraction(240), 61),
    ),
    *(
        Situation(
            f"a hold at {where}",
            lambda d, k=at: write_file(d / "hold.mkv", (), with_hold(76, 25, k, 4.0)),
            seen=Seen(Fraction(25), 76),
        )
        for where, at in (("the start", 0), ("the middle", 37), ("the end", 74))
    ),
    *(
        Situation(
            f"{float(fps):.2f} fps in {ticks} ticks a second",
            lambda d, f=fps, t=ticks, s=suffix: write_file(d / f"rate{s}", (), rounded(regular(120, f), t)),
            seen=Seen(fps, 120),
        )
        for fps in _RATES
        for ticks, suffix in ((1000, ".mkv"), (90_000, ".mp4"))
    ),
    Situation(
        "frames that arrive in bursts",
        lambda d: write_file(d / "bursts.mkv", (), [pair / 15 + late for pair in range(30) for late in (0.0, 0.001)]),
        seen=Seen(Fraction(15), 60),
    ),
    Situation(
        "frames that a camera dropped",
        lambda d: write_file(d / "dropped.mp4", (), [number / 30 for number in range(90) if number % 7]),
        seen=Seen(Fraction(30), 77),
    ),
    Situation(
        "a thumbnail before the video in .mp4", lambda d: _two_films(d / "two.mp4", 1), seen=Seen(Fraction(25), 25)
    ),
    Situation(
        "a thumbnail before the video in .mkv", lambda d: _two_films(d / "two.mkv", 1), seen=Seen(Fraction(25), 25)
    ),
    Situation(
        "two videos",
        lambda d: _two_films(d / "two.mp4", 20),
        seen=Seen(Fraction(25), 25, ["video_track_chosen"]),
    ),
    Situation("a slow vertical pan", _panned, seen=Seen(Fraction(25), 30)),
    Situation("one frame", lambda d: write_file(d / "one.mp4", (), [0.0]), seen=Seen(Fraction(25), 1)),
]


def write_speech(path: Path, samples: Samples) -> Path:
    """PCM 16 bit, mono, 16 kHz."""
    return write_file(path, [Sound(samples[None], rate_hz=16_000, codec="pcm_s16le")])


def _portrait(width: int = 320, height: int = 320, x: float = 160) -> NDArray[np.uint8]:
    """BGR u8 [height, width, 3]."""
    return portrait(130, width, height, x, 150)


def _encode(path: Path, pictures: Sequence[NDArray[np.uint8]], codec: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _interlaced(folder: Path) -> Path:
    pictures = []
    for number in range(50):
        first, second = (_portrait(x=160 + 12 * np.sin((2 * number + field) / 12)) for field in (0, 1))
        first[1::2] = second[1::2]
        pictures.append(first)
    return _encode(folder / "fields.mp4", pictures, "libx264", {"flags": "+ildct+ilme", "x264-params": "tff=1"})


def _turned_on_the_way(folder: Path) -> Path:
    """The pictures of the second file follow those of the first, in another size."""
    path = folder / "call.webm"
    options = {"auto-alt-ref": "0", "lag-in-frames": "0", "b": "4M"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
        out.start_encoding()
        for part, (width, x) in enumerate(((320, 160), (240, 120))):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, 320, "yuv420p"
            encoder.time_base, encoder.framerate, encoder.options = Fraction(1, 25), Fraction(25), options
            for number in range(25):
                frame = av.VideoFrame.from_ndarray(_portrait(width, 320, x), "bgr24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                for packet in encoder.encode(frame):
                    packet.pts = packet.dts = 40 * (25 * part + number)
                    packet.time_base, packet.stream = Fraction(1, 1000), stream
                    out.mux(packet)
    return path


def _damaged(folder: Path) -> Path:
    options = {"g": "25", "bf": "0", "sc_threshold": "0"}
    path = _encode(folder / "clip.mp4", [_portrait(x=160 + k / 5) for k in range(50)], "libx264", options)
    with av.open(str(path)) as media:
        packet = [packet for packet in media.demux(video=0) if packet.size][10]
    data = bytearray(path.read_bytes())
    data[packet.pos + 4 : packet.pos + packet.size] = b"\xff" * (packet.size - 4)
    path.write_bytes(data)
    return path


def _mouth_covered(folder: Path, cover: Cover) -> Path:
    faces = [_portrait(x=160 + 4 * np.sin(number / 6)) for number in range(50)]
    mouths = np.array([(160 + 4 * np.sin(number / 6), 179) for number in range(50)], np.float32)
    pictures = covered(faces, mouths, 88, cover, (20, 35))
    return _encode(folder / f"{cover}.mp4", pictures, "libx264", {"crf": "12"})


def _still(folder: Path, suffix: str) -> Path:
    register_heif_opener()
    path = folder / f"still{suffix}"
    Image.fromarray(_portrait()[..., ::-1].copy()).save(path, quality=95)
    return path


def _animation(folder: Path, suffix: str) -> Path:
    path = folder / f"moving{suffix}"
    pictures = [Image.fromarray(_portrait(x=160 + k)[..., ::-1].copy()) for k in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


STILL_SUFFIXES = (".jpg", ".png", ".webp", ".heic", ".avif")
# Pictures of a face, each spoken to with `SPOKEN`.
FACES: dict[str, Callable[[Path], Path]] = {
    "interlaced video": _interlaced,
    "phone turned on the way": _turned_on_the_way,
    "damaged frame": _damaged,
    **{f"{cover} over the mouth": lambda d, c=cover: _mouth_covered(d, c) for cover in COVERS},
    **{
        f"still in {suffix}": lambda d, s=suffix: _still(d, s) for suffix in (".jpg", ".png", ".webp", ".heic", ".avif")
    },
    **{f"animation in {suffix}": lambda d, s=suffix: _animation(d, s) for suffix in (".webp", ".png", ".gif")},
}
