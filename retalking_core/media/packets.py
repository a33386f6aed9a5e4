"""When each picture of a video stream is shown, learnt from the packets alone: nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from retalking_core.errors import MediaTooLongError, MediaUnreadableError
from retalking_core.media.limits import MediaLimits


@dataclass(frozen=True)
class PacketTable:
    """shown: i64 [N] presentation stamps, ascending; last_ticks: how long the last picture stays.

    key_shown, key_seek: i64 [K] presentation stamp of each key picture, and the stamp to seek to for it.
    stamped: the container states presentation stamps; if not, pictures can only be counted from the start.
    """

    shown: NDArray[np.int64]
    last_ticks: int
    key_shown: NDArray[np.int64]
    key_seek: NDArray[np.int64]
    time_base: Fraction
    stamped: bool

    @property
    def times_s(self) -> NDArray[np.float64]:
        """f64 [N], the first one 0."""
        return (self.shown - self.shown[0]).astype(np.float64) * float(self.time_base)

    @property
    def duration_ticks(self) -> int:
        return int(self.shown[-1] - self.shown[0]) + self.last_ticks


def scan_packets(container: InputContainer, stream: VideoStream, limits: MediaLimits) -> PacketTable:
    """Read every packet of the stream once. Packets outside an edit list are left out, as players do.

    Raises MediaTooLongError, MediaUnreadableError (no packets, or fewer than the index of an MP4 promises).
    """
    # AVI stores no presentation stamps, and those made up for it are wrong where B pictures follow. Its pictures are
    # numbered, and a number without one holds the picture before.
    is_avi = container.format.name == "avi"
    stamps: list[int | None] = []
    keys: list[tuple[int, int]] = []
    found, ticks = 0, 0
    time_base = stream.time_base or Fraction(1, 90_000)
    limit_ticks = limits.max_video_s / time_base
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        found += 1
        if found > limits.max_frames:
            raise MediaTooLongError(
                f"The video has more than {limits.max_frames} pictures; cut it into shorter parts.",
                limit_frames=limits.max_frames,
            )
        if packet.is_keyframe and packet.pts is not None:
            seek = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
            keys.append((packet.pts, seek))
        if packet.is_discard:
            continue
        stamps.append(packet.dts if is_avi else packet.pts)
        ticks = packet.duration or ticks
        if packet.pts is not None and stamps[0] is not None and packet.pts - stamps[0] > limit_ticks:
            raise too_long("video", None, limits.max_video_s)
    if not stamps:
        raise MediaUnreadableError("The video holds no pictures; upload the whole file again or re-export it.")
    table = _table(stamps, keys, ticks, stream, counted_only=is_avi)
    if table.duration_ticks > limit_ticks:
        raise too_long("video", float(table.duration_ticks * table.time_base), limits.max_video_s)
    indexed = len(stream.index_entries)
    if container.format.name.startswith("mov") and found < indexed:
        raise MediaUnreadableError(
            f"The video ends early: its index lists {indexed} pictures and only {found} are in the file. "
            "Upload the whole file again."
        )
    return table


def too_long(what: str, seconds: float | None, limit_s: float) -> MediaTooLongError:
    length = f"{seconds:.0f} s long" if seconds is not None else f"longer than {limit_s:.0f} s"
    return MediaTooLongError(
        f"The {what} is {length}; at most {limit_s:.0f} s are allowed. Cut it into shorter parts.", limit_s=limit_s
    )


def _table(
    stamps: list[int | None], keys: list[tuple[int, int]], ticks: int, stream: VideoStream, counted_only: bool
) -> PacketTable:
    """counted_only: pictures can be found by counting only."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    time_base = stream.time_base or Fraction(1, 90_000)
    step = max(1, round(1 / (rate * time_base)))
    stamped = None not in stamps
    if stamped:
        shown = np.sort(np.array(stamps, np.int64))
        # Two pictures with one stamp: the later one gets the next tick, so that times stay ascending.
        shown = np.maximum.accumulate(shown - np.arange(len(shown))) + np.arange(len(shown))
    else:
        shown = np.arange(len(stamps), dtype=np.int64) * step
    ordered = np.array(sorted(keys), np.int64).reshape(-1, 2)
    return PacketTable(
        shown=shown,
        last_ticks=int(ticks or (np.median(np.diff(shown)) if len(shown) > 1 else step)),
        key_shown=ordered[:, 0],
        key_seek=ordered[:, 1],
        time_base=time_base,
        stamped=stamped and not counted_only,
    )
