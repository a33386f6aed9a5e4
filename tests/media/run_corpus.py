"""Every situation of the corpus through a running service: `make corpus` prints what came of each as a table.

Length and lag are measured on the decoded result, the lag by cross-correlation with what the file means. The worst
pixel is the largest difference in luma, outside the face, between the lossless result and the frames that were read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retalking_core.clip_plan import plan_timeline
from retalking_core.errors import InputError
from retalking_core.evaluation.face_points import find_points
from retalking_core.evaluation.frame_pass import face_box
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from tests.e2e.conftest import Service, running_service
from tests.faces.clips import portrait, write_clip
from tests.media.corpus import FACES, SITUATIONS, SPOKEN, write_speech
from tests.media.test_corpus import lag_s

Row = tuple[str, str, str, str, str]
HEADER: Row = ("situation", "outcome", "length in s (expected)", "lag in ms", "worst pixel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="Part of the names")
    wanted = parser.parse_args().only
    print_row(HEADER)
    print_row(("---",) * 5)
    with tempfile.TemporaryDirectory() as text, running_service(Path(text)) as service:
        folder = Path(text)
        face = write_clip(folder / "face.mp4", [portrait(130, 320, 320, 160, 150)] * 25)
        speech = write_speech(folder / "speech.wav", SPOKEN)
        for number, situation in enumerate(each for each in SITUATIONS if wanted in each.name):
            if situation.heard is None and situation.refused is None:
                continue
            place = folder / str(number)
            place.mkdir()
            expected = situation.heard.samples if situation.heard else None
            print_row(run(service, situation.name, face, situation.build(place), place, expected, situation.options))
        for number, (name, build) in enumerate(FACES.items()):
            if wanted in name:
                place = folder / f"face{number}"
                place.mkdir()
                print_row(run(service, name, build(place), speech, place, SPOKEN, {}))


def run(
    service: Service,
    name: str,
    video: Path,
    audio: Path,
    folder: Path,
    expected: np.ndarray | None,
    options: dict[str, str],
) -> Row:
    answer = service.submit(video, audio, **{"output.crf": "0"}, **options)
    if answer.status_code != 202:
        return name, f"`{answer.json()['code']}`", "", "", ""
    job = service.finish(answer.json()["id"])
    if job["status"] != "succeeded":
        return name, f"`{job['error']['code']}`", "", "", ""
    result = service.download(job["id"], folder / "result.mp4")
    codes = [note["code"] for note in job["render"]["notes"]]
    lag = length = ""
    if expected is not None:
        with read_speech(result, DEFAULT_LIMITS) as speech:
            # Of channels that cancel each other, either may be the louder one.
            found = (lag_s(speech.waveform.samples, sign * expected) for sign in (1, -1))
            lag = f"{1000 * max(found, key=lambda each: each[1])[0]:.1f}"
        length = f"{open_video(result, DEFAULT_LIMITS).info.duration_s:.2f} ({len(expected) / 16_000:.2f})"
    return (
        name,
        ", ".join(f"`{code}`" for code in codes) or "as it is",
        length,
        lag,
        measure(worst_pixel, result, video),
    )


def measure(function: Callable[..., Any], *files: Path) -> str:
    try:
        return str(function(*files))
    except InputError as error:
        return error.code


def worst_pixel(result: Path, video: Path) -> int:
    made, source = (open_video(path, DEFAULT_LIMITS) for path in (result, video))
    plan = plan_timeline(source.info, made.info.duration_s, "bounce", None).source_index
    marks = find_points(made.frames())
    worst = 0
    for new, old, points in zip(made.frames(), source.frames_at(plan.tolist()), marks, strict=False):
        difference = np.abs(new.y.astype(np.int16) - old.y)
        if np.isfinite(points).all():
            left, top, right, bottom = face_box(points, new.y.shape[1], new.y.shape[0])
            difference[top:bottom, left:right] = 0
        worst = max(worst, int(difference.max()))
    return worst


def print_row(row: Row) -> None:
    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
