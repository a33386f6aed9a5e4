"""Who speaks: 40 scenes with known truth, and how often `face=speaking` is right: `python -m bench.speakers`.

Needs the clips of RETALKING_MEDIA_DIR (three people, each filmed while speaking) for faces and voices. Each scene has
two or three faces and one or two segments; in each segment one face speaks, as filmed, and its sound is heard. Prints
one row for each segment, the accuracy by kind, and the seconds; exits with 1 below 95 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.speaker_scenes import (
    FPS,
    Face,
    Picture,
    Placed,
    chewing_motion,
    draw_shot,
    make_music,
    smiling_motion,
    still_motion,
    swayed,
    write_scene,
)
from retalking_core.face_choice import Cast
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import load_waveform
from retalking_core.options import FaceTrackId
from retalking_core.types import Waveform
from retalking_core.vocabulary.options import SPEAKING

BAR = 0.95
SCENES = 40
SECONDS = 4.8
WIDTH, HEIGHT = 960, 540
BEHAVIORS = ("listens", "chews", "smiles", "moves", "mouths")
FRAMES = round(SECONDS * FPS)
RATE_HZ = 16_000


class Actors:
    """The people of the clips, and what each can do."""

    def __init__(self, media: Path) -> None:
        self.names = ("1", "2", "3")
        self._files = {name: media / f"{name}.mp4" for name in self.names}

    @cache  # noqa: B019 one instance a process
    def face(self, name: str) -> Face:
        source = open_video(self._files[name], DEFAULT_LIMITS)
        times_s = (np.arange(FRAMES) + 0.5) / FPS
        numbers = np.searchsorted(source.info.frame_times_s, times_s, side="right") - 1
        return Face(source, numbers.tolist())

    @cache  # noqa: B019
    def pictures(self, name: str, behavior: str) -> list[Picture]:
        """mouths: as filmed, so that the lips speak without being heard."""
        if behavior in ("speaks", "mouths"):
            return self.face(name).filmed()
        if behavior == "moves":
            return swayed(self.pictures(name, "listens"), int(name))
        seed = int(name)
        motion = {"chews": chewing_motion(FRAMES, seed), "smiles": smiling_motion(FRAMES)}
        return self.face(name).moving(motion.get(behavior, still_motion(FRAMES)))

    @cache  # noqa: B019
    def voice(self, name: str) -> NDArray[np.float32]:
        samples = load_waveform(self._files[name], DEFAULT_LIMITS).samples[: round(SECONDS * RATE_HZ)]
        return np.pad(samples, (0, round(SECONDS * RATE_HZ) - len(samples)))


@dataclass(frozen=True)
class Segment:
    """start, stop: frames. speaker: name. others: what they do."""

    start: int
    stop: int
    speaker: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """cut: the second segment is another shot, in which the sides are swapped."""

    number: int
    cast: tuple[str, ...]
    segments: tuple[Segment, ...]
    sizes: tuple[int, ...]
    music_db: float | None
    cut: bool

    def placed(self, actors: Actors, segment: Segment) -> dict[str, Placed]:
        order = self.cast[::-1] if self.cut and segment.start > 0 else self.cast
        column, placed = WIDTH // len(order), {}
        others = iter(segment.others)
        behaviors = {name: "speaks" if name == segment.speaker else next(others) for name in self.cast}
        for k, name in enumerate(order):
            side = min(self.sizes[self.cast.index(name)], column) & ~1
            left, top = k * column + (column - side) // 2, (HEIGHT - side) // 2
            placed[name] = Placed(actors.pictures(name, behaviors[name]), side, left, top)
        return placed

    def write(self, actors: Actors, path: Path) -> Path:
        pictures: list[Picture] = []
        sound = np.zeros(round(SECONDS * RATE_HZ), np.float32)
        for segment in self.segments:
            pictures += draw_shot(
                list(self.placed(actors, segment).values()), WIDTH, HEIGHT, segment.start, segment.stop
            )
            part = slice(*(round(frame / FPS * RATE_HZ) for frame in (segment.start, segment.stop)))
            sound[part] = actors.voice(segment.speaker)[part]
        if self.music_db is not None:
            level = float(np.sqrt(np.square(sound).mean()))
            music = make_music(len(sound), RATE_HZ, self.number)
            sound = sound + music * np.float32(level / 0.1 * 10 ** (-self.music_db / 20))
        return write_scene(path, pictures, Waveform(0.8 * sound / max(1.0, float(np.abs(sound).max()))))


def plan_scenes(names: tuple[str, ...], count: int, seed: int = 20) -> list[Scene]:
    """Deterministic; every behavior, size, side, number of faces and kind of sound comes up about equally often."""
    rng = np.random.default_rng(seed)
    scenes = []
    for number in range(count):
        three = number % 5 == 4
        cast = tuple(rng.permutation(names)[: 3 if three else 2].tolist())
        turns = number % 2 == 1
        speakers = list(rng.permutation(cast)[: 2 if turns else 1])
        # A mouth without sound tells itself from the heard one only over the length of a sentence.
        quiet = BEHAVIORS[:4] if turns else BEHAVIORS
        ends = [0, FRAMES // 2, FRAMES] if turns else [0, FRAMES]
        segments = tuple(
            Segment(
                ends[k],
                ends[k + 1],
                str(speaker),
                tuple(quiet[(number // 2 + k + j) % len(quiet)] for j in range(len(cast) - 1)),
            )
            for k, speaker in enumerate(speakers)
        )
        sizes = tuple(int(size) for size in rng.choice([200, 260, 320, 420, 480], len(cast)))
        music_db = (None, 15.0, 10.0, 5.0)[number % 4]
        scenes.append(Scene(number, cast, segments, sizes, music_db, cut=turns and number % 3 == 0))
    return scenes


def judge(scene: Scene, actors: Actors, file: Path) -> list[bool]:
    """Whether each segment's speaker was found; prints a row for each."""
    source = open_video(file, DEFAULT_LIMITS)
    cast = Cast.of_video(file, source, (0.0, 0.0, 0.0, 0.0), DEFAULT_LIMITS, lambda done, total: None)
    verdicts = []
    for segment in scene.segments:
        shown = np.arange(segment.start, segment.stop)
        face, note = cast.identify(SPEAKING, shown)
        assert note is not None
        truth = scene.placed(actors, segment)[segment.speaker]
        right = False
        if isinstance(face, FaceTrackId):
            place = cast.place_of(face, shown)
            right = truth.contains(place.x, place.y)
        verdicts.append(right)
        music = "-" if scene.music_db is None else f"{scene.music_db:.0f} dB below"
        others = ", ".join(segment.others)
        print(
            f"| {scene.number} | {segment.start / FPS:.1f}-{segment.stop / FPS:.1f} s | {segment.speaker} | {others} | "
            f"{music} | {'yes' if scene.cut else '-'} | {'right' if right else 'WRONG'} | {note.sentence} |",
            flush=True,
        )
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    actors = Actors(Path(os.environ.get("RETALKING_MEDIA_DIR", "media")))
    by_kind: dict[str, list[bool]] = defaultdict(list)
    print(
        "| scene | segment | speaks | others | music | cut before it | verdict | note |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    took_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for scene in plan_scenes(actors.names, arguments.scenes, arguments.seed):
            file = scene.write(actors, Path(folder) / "scene.mp4")
            began = time.perf_counter()
            verdicts = judge(scene, actors, file)
            took_s += time.perf_counter() - began
            for segment, right in zip(scene.segments, verdicts, strict=True):
                for behavior in set(segment.others):
                    by_kind[f"another {behavior}"].append(right)
                by_kind["with music" if scene.music_db is not None else "without music"].append(right)
                by_kind[f"{len(scene.cast)} faces"].append(right)
                by_kind["all"].append(right)
    print("\n| kind | segments | right |\n|---|---|---|")
    for kind in sorted(by_kind):
        found = by_kind[kind]
        print(f"| {kind} | {len(found)} | {np.mean(found):.1%} |")
    accuracy = float(np.mean(by_kind["all"]))
    print(f"\n{took_s / (arguments.scenes * SECONDS):.2f} s for each second of video; the bar is {BAR:.0%}.")
    return 0 if accuracy >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
