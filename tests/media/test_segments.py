"""Pieces of a result, joined: the same stream that one writer makes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.clip_plan import plan_timeline
from retalking_core.errors import EngineFaultError
from retalking_core.media.encoder import GROUP_FRAMES
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from retalking_core.media.writer import ResultWriter, SegmentWriter, join_segments, plan_segments
from retalking_core.options import OutputOptions
from tests.media import clips

LIMITS = MediaLimits()
FPS = Fraction(30000, 1001)


class Pieces:
    """The same result twice: whole, and as segments."""

    def __init__(self, folder: Path, seconds: float, **options: object) -> None:
        self.folder, self.output = folder, OutputOptions(**options)
        self.source = open_video(clips.make_video(folder / "clip.mp4", frames=40, size=(144, 96), fps=FPS), LIMITS)
        self.speech = clips.make_wav(folder / "speech.wav", seconds, rate_hz=44100)
        self.timeline = plan_timeline(self.source.info, seconds, "bounce", self.output.fps)
        self.segments = plan_segments(len(self.timeline.source_index))

    def write_whole(self) -> Path:
        path = self.folder / f"whole.{self.output.container}"
        with (
            read_speech(self.speech, LIMITS) as speech,
            ResultWriter(path, self.source.info, self.timeline, speech.sound, self.output, {}) as writer,
        ):
            for frame in self.source.frames_at(self.timeline.source_index):
                writer.write(frame)
        return path

    def write_parts(self) -> list[Path]:
        paths = []
        for number, segment in enumerate(self.segments):
            paths.append(self.folder / f"part-{number}")
            with SegmentWriter(paths[-1], self.source.info, self.timeline, segment, self.output) as writer:
                for frame in self.source.frames_at(self.timeline.source_index[segment.start : segment.stop]):
                    writer.write(frame)
        return paths

    def join(self, parts: list[Path]) -> Path:
        path = self.folder / f"joined.{self.output.container}"
        with read_speech(self.speech, LIMITS) as speech:
            join_segments(path, parts, self.timeline, speech.sound, self.output, {})
        return path


def packets_of(path: Path, kind: str) -> list[tuple[int, int | None, bool, bytes]]:
    """Matroska holds no decoding times; of some pictures the reader cannot infer them."""
    with av.open(str(path)) as media:
        return [
            (packet.pts, packet.dts, packet.is_keyframe, bytes(packet))
            for packet in media.demux(media.streams.get({kind: 0})[0])
            if packet.pts is not None
        ]


def pictures_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as media:
        return [(picture.time, picture.to_ndarray()) for picture in media.decode(video=0)]


@pytest.mark.parametrize(
    ("seconds", "options"),
    [
        (16.05, {"container": "mp4"}),  # 481: a last group of one picture
        (8.0, {"container": "mkv", "crf": 30}),  # 240: exactly one group
        (16.1, {"container": "mov", "max_height": 64, "fps": 15.5}),
    ],
)
def test_joined_segments_are_the_stream_of_one_writer(tmp_path: Path, seconds: float, options: dict) -> None:
    pieces = Pieces(tmp_path, seconds, **options)
    whole, joined = pieces.write_whole(), pieces.join(pieces.write_parts())
    for kind in ("video", "audio"):
        assert packets_of(joined, kind) == packets_of(whole, kind)
    seen, expected = pictures_of(joined), pictures_of(whole)
    assert len(seen) == len(expected) == len(pieces.timeline.source_index)
    for (time_s, picture), (expected_s, other) in zip(seen, expected, strict=True):
        assert time_s == expected_s
        assert np.array_equal(picture, other)


def test_every_group_begins_with_a_key_picture_and_none_depends_on_another(tmp_path: Path) -> None:
    """Decoding can begin at any group: what seeking players do, and what lets a segment be made again alone."""
    pieces = Pieces(tmp_path, 19.3)
    whole = pieces.write_whole()
    packets = packets_of(whole, "video")
    assert [packets[first][2] for first in range(0, len(packets), GROUP_FRAMES)] == [True] * len(pieces.segments)
    expected = dict(pictures_of(whole))
    with av.open(str(whole)) as media:
        start_s = float(GROUP_FRAMES / FPS)
        media.seek(int(start_s * av.time_base) + 1000)
        late = [(picture.time, picture.to_ndarray()) for picture in media.decode(video=0)]
    assert late[0][0] == pytest.approx(start_s)
    assert len(late) == len(packets) - GROUP_FRAMES
    assert all(np.array_equal(picture, expected[time_s]) for time_s, picture in late)


def test_parts_that_do_not_fit_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path, 19.3)
    first, second, third = pieces.write_parts()
    (tmp_path / "other").mkdir()
    alien = Pieces(tmp_path / "other", 19.3, max_height=64).write_parts()[1]
    cut = tmp_path / "cut"
    cut.write_bytes(second.read_bytes()[:300])
    for parts, reason in [
        ([first, second], "2 segments were made, 3 were planned"),
        ([first, alien, third], "encoded in different ways"),
        ([first, third, second], "pictures, 240 were planned"),
        ([first, cut, third], "holds no pictures|could not be read back"),
    ]:
        with pytest.raises(EngineFaultError, match=reason):
            pieces.join(parts)
    assert not (tmp_path / "joined.mp4").exists()
    assert list(tmp_path.glob(".*.part")) == []


def test_a_segment_with_too_few_pictures_leaves_no_file(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path, 9.0)
    path = tmp_path / "short"
    with (
        pytest.raises(EngineFaultError, match="1 pictures of a segment"),
        SegmentWriter(path, pieces.source.info, pieces.timeline, pieces.segments[1], pieces.output) as writer,
    ):
        writer.write(next(iter(pieces.source.frames_at([0]))))
    assert [each.name for each in tmp_path.iterdir() if "short" in each.name or each.suffix == ".part"] == []
