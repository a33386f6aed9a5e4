"""The caller's video or picture as a `FrameSource`: upright 4:2:0 frames that can be read again, in any order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from retalking_core.errors import CodecUnsupportedError, MediaTooLongError, MediaUnreadableError
from retalking_core.media.container import MediaFile, check_picture_size, open_container, reading
from retalking_core.media.cursor import (
    FrameCursor,
    PacketTable,
    PictureDecoder,
    find_field_order,
    scan_packets,
    video_stream,
)
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import (
    EXIF_TURNS,
    PictureGeometry,
    PlaneConverter,
    display_turn,
    picture_color,
    picture_geometry,
)
from retalking_core.notes import Note
from retalking_core.types import ColorTags, Frame, VideoInfo

DEINTERLACED = Note("video_deinterlaced", "The video is interlaced; it was deinterlaced before it was drawn on.")
_MIN_HELD_FRAMES = 4
# A step this many times the median is a picture that was held, not a slower rate.
_HOLD_STEPS = 3
# Steps differ by less than this (of the usual one) in a regular run, which so many of them belong to.
_ALIKE, _MOST = 0.15, 0.75
# SMPTE ST 2036-1 with the halves and doubles that cameras and screen recorders use.
_STANDARD_RATES = (
    *(Fraction(rate) for rate in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 200, 240)),
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120, 240)),
)
# Sample entries without a compatible base layer (Dolby Vision Streams Within the ISO Base Media File Format).
_DOLBY_VISION_TAGS = frozenset({"dvh1", "dvhe", "dvav", "dva1", "dav1"})
_SMALLEST_SIDE_PX = 16  # what x264 and every face detector still take


def open_video(path: Path, limits: MediaLimits, still_fps: float = 25.0) -> VideoReader | StillReader:
    """Open a video, or a picture as a video of one frame at `still_fps`.

    Everything but the first picture stays undecoded. Raises an InputError: file_empty, container_unsupported,
    media_unreadable, codec_unsupported, video_stream_missing, media_too_long, picture_too_large, streams_too_many.
    """
    with open_container(path, limits) as media:
        stream = video_stream(media)
        _check_stored_size(stream.codec_context.width, stream.codec_context.height, limits)
        _refuse_dolby_vision(stream)
        if media.kind.is_picture:
            return _open_still(media, limits, still_fps)
        table = _scan(media, limits)
        kind, codec = media.kind.name, stream.codec_context.name
        rate = nominal_rate(stream.average_rate, table, limits)
        notes = _track_note(media, stream)
    with open_container(path, limits) as media:
        pictures = PictureDecoder(media, limits).pictures()
        first, geometry, color = _first_picture(media, pictures, limits)
        with closing(pictures):
            field_order = find_field_order(chain([first], pictures))
    info = VideoInfo(
        width=geometry.width,
        height=geometry.height,
        fps=rate,
        frame_times_s=table.times_s,
        duration_s=float(table.duration_ticks * table.time_base),
        rotation_deg=geometry.rotation_deg,
        color=color,
        is_still=False,
        container=kind,
        codec=codec,
        field_order=field_order,
        notes=(*notes, *((DEINTERLACED,) if field_order else ())),
    )
    return VideoReader(path, limits, info, table, geometry)


class VideoReader:
    """A video file. Every pass has a decoder of its own: passes may run side by side, also in threads.

    Memory of a pass: the decoder's own pictures, plus at most `max_held_bytes` when run backwards.

    damaged: numbers of the frames that did not decode so far and were given as a repeat of the one before. fitted:
    numbers of those, so far, whose size or orientation is another than the first one's.
    """

    def __init__(
        self, path: Path, limits: MediaLimits, info: VideoInfo, table: PacketTable, geometry: PictureGeometry
    ) -> None:
        self.info = info
        self.damaged: set[int] = set()
        self.fitted: set[int] = set()
        self._path, self._limits, self._table, self._geometry = path, limits, table, geometry
        frame_bytes = info.width * info.height * 3 // 2
        self._held_frames = max(_MIN_HELD_FRAMES, limits.max_held_bytes // frame_bytes)

    def frames(self) -> Iterator[Frame]:
        """Every frame once, in order. Raises MediaUnreadableError when fewer than half of them decode."""
        return self.frames_at(range(self.info.frame_count))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames of these numbers in the order asked. Raises IndexError for a number outside the video.

        A long forward run is decoded as it is asked for. Anything else (backwards, to and fro) is cut into blocks of
        as many different frames as may be held; a block is decoded forward once and given out in the order asked.
        """
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.info.frame_count):
            raise IndexError(f"frame numbers must be 0..{self.info.frame_count - 1}")
        converter = PlaneConverter(self._geometry, self.info.color, follows_turns=True, fitted=self.fitted)
        order = self.info.field_order
        with FrameCursor(self._path, self._limits, self._table, converter, self.damaged, order) as cursor:
            for block, is_forward in _blocks(wanted, self._held_frames):
                if is_forward:
                    for index in block:
                        yield self._checked(cursor.read(int(index)))
                else:
                    held = {int(index): self._checked(cursor.read(int(index))) for index in np.unique(block)}
                    yield from (held[int(index)] for index in block)

    @property
    def smeared(self) -> set[int]:
        """Numbers of the frames, so far, between one that did not decode and the next key frame: they are predicted
        from it, and may show smears."""
        shown, key_shown = self._table.shown, self._table.key_shown
        found: set[int] = set()
        for number in self.damaged:
            key = int(np.searchsorted(key_shown, shown[number], side="right"))
            end = int(np.searchsorted(shown, key_shown[key])) if key < len(key_shown) else len(shown)
            found.update(range(number + 1, end))
        return found - self.damaged

    def _checked(self, frame: Frame) -> Frame:
        if 2 * len(self.damaged) > self.info.frame_count:
            raise MediaUnreadableError(
                f"More than half of the {self.info.frame_count} pictures of the video do not decode; re-export it."
            )
        return frame


class StillReader:
    """A picture as a video of one frame. damaged, smeared, fitted: as of `VideoReader`, always empty."""

    def __init__(self, info: VideoInfo, frame: Frame) -> None:
        self.info = info
        self.damaged, self.smeared, self.fitted = set[int](), set[int](), set[int]()
        self._frame = frame

    def frames(self) -> Iterator[Frame]:
        yield self._frame

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Raises IndexError for any number but 0."""
        for index in indices:
            if index != 0:
                raise IndexError("a picture has only frame 0")
            yield self._frame


def _blocks(wanted: np.ndarray, held_frames: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Cut a list of frame numbers into (numbers, is a forward run) pieces."""
    turns = np.flatnonzero(np.diff(wanted) < 0) + 1
    start = 0
    while start < len(wanted):
        following = int(np.searchsorted(turns, start, side="right"))
        end = int(turns[following]) if following < len(turns) else len(wanted)
        if end == len(wanted) or wanted[end - 1] - wanted[start] >= held_frames:
            yield wanted[start:end], True
        else:
            end = _block_end(wanted, start, held_frames)
            yield wanted[start:end], False
        start = end


def _block_end(wanted: np.ndarray, start: int, held_frames: int) -> int:
    seen: set[int] = set()
    for position in range(start, len(wanted)):
        seen.add(int(wanted[position]))
        if len(seen) > held_frames:
            return position
    return len(wanted)


def _check_stored_size(width: int, height: int, limits: MediaLimits) -> None:
    check_picture_size(width, height, limits)
    if width < 1 or height < 1:
        raise MediaUnreadableError(
            f"The size of the pictures cannot be read: the video is damaged, or they are far larger than the "
            f"{limits.max_picture_px / 1e6:.0f} megapixels allowed. Re-export it."
        )


def _refuse_dolby_vision(stream: VideoStream) -> None:
    """Refuses a base layer that only Dolby's decoders show in its colors. One that others show, too (profile 8, as
    phones record it), has the tag of its codec, and is read as what it is then: HLG, PQ or SDR."""
    tag = stream.codec_context.codec_tag
    if tag in _DOLBY_VISION_TAGS:
        raise CodecUnsupportedError(
            f"The video is Dolby Vision of a profile that only Dolby's decoders can show ({tag}); export it as HDR10, "
            "HLG or SDR."
        )


def _track_note(media: MediaFile, stream: VideoStream) -> tuple[Note, ...]:
    if len(media.films) < 2:
        return ()
    number = media.films.index(stream) + 1
    sentence = f"Track {number} of {len(media.films)} video tracks was used; send the other one alone to use that."
    return (Note("video_track_chosen", sentence),)


def _scan(media: MediaFile, limits: MediaLimits) -> PacketTable:
    stream = video_stream(media)
    with reading("video"):
        return scan_packets(media.container, stream, limits)


def nominal_rate(declared: Fraction | None, table: PacketTable, limits: MediaLimits) -> Fraction:
    """Frames per second while the picture moves, from the steps between frames.

    A hold (a step over three times the median, as in screen recordings) does not count, and frames that arrived in one
    burst count as one. A standard rate within 0.25 %, or within the rounding of the time stamps, is taken exactly, else
    the container's own average where the steps agree with it within 2 %. Raises MediaTooLongError above `max_fps`.
    """
    tick, count = table.time_base, len(table.shown)
    if count == 1:
        return declared if declared and declared <= limits.max_fps else Fraction(25)
    steps = np.diff(table.shown)
    is_seen = steps * float(tick) >= 1 / (2 * limits.max_fps)
    if not is_seen.any():
        is_seen[:] = True
    is_held = steps > _HOLD_STEPS * np.median(steps[is_seen])
    is_moving = is_seen & ~is_held
    # Where most steps are alike, the longer ones are frames that a camera dropped.
    usual = np.median(steps[is_moving])
    # Stamps are rounded by a tick at most; where a picture lasts one tick, they count pictures.
    is_usual = is_moving & (np.abs(steps - usual) <= max(usual > 1, _ALIKE * usual))
    if is_usual.sum() >= _MOST * is_moving.sum() and is_seen.all():
        is_moving, is_held = is_usual, ~is_usual
    moving_ticks = int(steps[~is_held].sum())
    rate = Fraction(int(is_moving.sum())) / (moving_ticks * tick)
    rounding = Fraction(1, moving_ticks)
    standard = _standard_rate(rate, min(max(Fraction(1, 400), rounding), Fraction(1, 50)))
    if standard is not None:
        rate = standard
    elif declared and abs(declared / rate - 1) < Fraction(1, 50):
        rate = declared
    if rate > limits.max_fps:
        raise MediaTooLongError(
            f"The video has {float(rate):.0f} pictures a second; at most {limits.max_fps:.0f} are allowed. "
            "Re-export it at a lower rate."
        )
    return rate.limit_denominator(100_000)


def _standard_rate(rate: Fraction, tolerance: Fraction) -> Fraction | None:
    """The nearest standard rate, where one lies within the tolerance (relative)."""
    nearest = min(_STANDARD_RATES, key=lambda standard: abs(standard / rate - 1))
    return nearest if abs(nearest / rate - 1) <= tolerance else None


def _first_picture(
    media: MediaFile, pictures: Iterator[VideoFrame], limits: MediaLimits
) -> tuple[VideoFrame, PictureGeometry, ColorTags]:
    """The first of the pictures that decode, with its geometry and colors."""
    stream = video_stream(media)
    picture = next(pictures, None)
    if picture is None:
        raise MediaUnreadableError("Not one picture of the file decodes; re-export it and upload it again.")
    turn = EXIF_TURNS[media.orientation - 1] if media.kind.is_picture else display_turn(picture)
    geometry = picture_geometry(picture, stream.sample_aspect_ratio, turn)
    check_picture_size(geometry.width, geometry.height, limits)
    if min(geometry.width, geometry.height) < _SMALLEST_SIDE_PX:
        raise MediaUnreadableError(
            f"The picture is {geometry.width}x{geometry.height}; at least {_SMALLEST_SIDE_PX} pixels a side are needed."
        )
    return picture, geometry, picture_color(picture, stream.codec_context.name)


def _open_still(media: MediaFile, limits: MediaLimits, still_fps: float) -> StillReader:
    picture, geometry, color = _first_picture(media, PictureDecoder(media, limits).pictures(), limits)
    frame = PlaneConverter(geometry, color).to_frame(picture, 0)
    fps = exact_rate(still_fps)
    info = VideoInfo(
        width=geometry.width,
        height=geometry.height,
        fps=fps,
        frame_times_s=np.zeros(1),
        duration_s=float(1 / fps),
        rotation_deg=geometry.rotation_deg,
        color=color,
        is_still=True,
        container=media.kind.name,
        codec=media.kind.name,
        notes=media.notes,
    )
    return StillReader(info, frame)


def exact_rate(fps: float) -> Fraction:
    """The rate as a fraction; the NTSC family (23.976, 29.97, 59.94, ...) becomes n * 1000 / 1001 exactly."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be positive, not {fps}")
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if ntsc > 0 and abs(float(ntsc) - fps) < 1e-3 and abs(fps - round(fps)) > 1e-6:
        return ntsc
    return Fraction(fps).limit_denominator(10_000)
