"""What it takes to join a result from pieces: `python -m bench.joining VIDEO [--frames 480]` prints a table.

The same pictures are encoded by one encoder, by one with key pictures forced where groups begin, and by a fresh encoder
for each group. `equal`: pictures that decode as the fresh encoders' do, when those work alone, in another order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from retalking_core.media.encoder import CODEC, GROUP_FRAMES, PRESET, THREADS, PictureSettings
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.planes import to_picture
from retalking_core.media.reader import open_video
from retalking_core.media.writer import plan_segments
from retalking_core.types import VideoInfo
from tests.media.clips import gradient_rgb

CRF = 18


@dataclass(frozen=True)
class Encoded:
    """packets: of each encoder, in its order. cpu_s: of the whole process."""

    packets: list[list[bytes]]
    wall_s: float
    cpu_s: float

    @property
    def size_kb(self) -> float:
        return sum(len(packet) for group in self.packets for packet in group) / 1000

    def decoded(self) -> list[NDArray[np.uint8]]:
        decoder = CodecContext.create("h264", "r")
        pictures = [
            picture for group in self.packets for packet in group for picture in decoder.decode(av.Packet(packet))
        ]
        return [picture.to_ndarray() for picture in [*pictures, *decoder.decode(None)]]


def encode(
    pictures: Sequence[VideoFrame],
    info: VideoInfo,
    groups: Sequence[range],
    forced: frozenset[int] = frozenset(),
    threads: int = THREADS,
    **changed: str,
) -> Encoded:
    """One encoder a group. forced: numbers of pictures that must be key pictures. changed: options of the encoder."""
    settings = PictureSettings(info.width, info.height, info.height, info.color, info.fps, CRF)
    wall_s, cpu_s, packets = time.perf_counter(), time.process_time(), []
    for group in groups:
        context = CodecContext.create(CODEC, "w")
        settings.apply(context)
        context.thread_count = threads
        context.options = changed or context.options
        packets.append([])
        for number in group:
            picture = pictures[number]
            picture.pts, picture.time_base = number - group.start, 1 / info.fps
            picture.pict_type = PictureType.I if number in forced else PictureType.NONE
            packets[-1] += [bytes(packet) for packet in context.encode(picture)]
        packets[-1] += [bytes(packet) for packet in context.encode(None)]
    return Encoded(packets, time.perf_counter() - wall_s, time.process_time() - cpu_s)


def count_results(info: VideoInfo, **changed: str) -> int:
    """How many different streams come of ten encodes of the same pictures, a moving pattern. One, if all is well."""
    pattern = [
        VideoFrame.from_ndarray(gradient_rgb(abs(number % 78 - 39), 320, 240), "rgb24").reformat(format="yuv420p")
        for number in range(60)
    ]
    small = replace(info, width=320, height=240)
    found = set()
    for number in range(10):
        # Other encodes in between, so that the encoder meets memory that was used differently.
        encode(pattern[: 10 + number], small, [range(10 + number)], preset="medium")
        found.add(tuple(encode(pattern, small, [range(60)], **changed).packets[0]))
    return len(found)


def main() -> None:
    """Encode the clip in each way, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=2 * GROUP_FRAMES)
    arguments = parser.parse_args()
    source = open_video(arguments.video, DEFAULT_LIMITS)
    info, count = source.info, arguments.frames
    numbers = np.abs((np.arange(count) + info.frame_count - 1) % (2 * info.frame_count - 2) - (info.frame_count - 1))
    pictures = [to_picture(frame) for frame in source.frames_at(numbers.tolist())]
    groups, whole = plan_segments(count), [range(count)]
    alone = Encoded(
        [encode(pictures, info, [group]).packets[0] for group in reversed(groups)][::-1], 0.0, 0.0
    ).decoded()
    free = {"crf": str(CRF), **PRESET}
    ways = {
        "one encoder": encode(pictures, info, whole),
        "forced key pictures": encode(pictures, info, whole, frozenset(group.start for group in groups)),
        "a fresh encoder a group": encode(pictures, info, groups),
        "the same, 3 threads": encode(pictures, info, groups, threads=3),
        "the same, any CPU code": encode(pictures, info, groups, **free),
    }
    print(f"{arguments.video.name}: {info.width}x{info.height}, {count} pictures, groups of {GROUP_FRAMES}, crf {CRF}")
    print(f"{'way':<26}{'wall s':>8}{'cpu s':>8}{'kB':>9}{'equal':>7}")
    for name, result in ways.items():
        equal = sum(np.array_equal(a, b) for a, b in zip(result.decoded(), alone, strict=True))
        print(f"{name:<26}{result.wall_s:>8.2f}{result.cpu_s:>8.2f}{result.size_kb:>9.0f}{equal:>7}")
    print(f"ten encodes of one pattern: {count_results(info)} different results; any CPU code: ", end="")
    print(f"{count_results(info, **free)}")


if __name__ == "__main__":
    main()
