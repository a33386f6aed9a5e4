"""How well two real faces follow their own speech through the service: `python -m bench.dialog DIR [--json FILE]`.

DIR holds 1.mp4, 3.mp4 and 1.wav. Starts `retalking up` in a fresh folder and sends one job through `POST /v1/jobs`:
both clips side by side, each face with a line alone, then both at once, encoded without loss (`crf` 0). Of each face:
r of its mouth with its own speech and, while both speak, with the other's (bars 0.6 and 0.2), the service's own
`mouth_speech_correlation` of its two segments, and the pixels of its half that changed while it was silent (bar 0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.service import finished, started
from retalking_client import Client, Job
from tests.media.dialogs import Dialog, make_real_dialog, measure_result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--result", type=Path, help="keep the result here")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_real_dialog(asked.media, Path(folder))
        result = asked.result or Path(folder) / "result.mp4"
        with started() as service:
            job = dub(service.url, scene, result)
        assert job.render is not None
        faces = measure_result(scene, result, [list(each.face_box or ()) for each in job.render.segments[:2]])
    assert job.evaluation is not None
    (scored,) = (metric for metric in job.evaluation if metric.name == "mouth_speech_correlation")
    told = [None if each.value is None else round(each.value, 2) for each in scored.segments]
    for side, face, own in zip(("left", "right"), faces, (told[::2], told[1::2]), strict=True):
        print(
            f"{side}: own speech r {face.own:.2f}, other's {face.other:.2f}; by segment {own}; "
            f"pixels changed in silence {face.changed_in_silence}"
        )
    if asked.json is not None:
        asked.json.write_text(
            json.dumps({"faces": [asdict(face) for face in faces], "segments": told}, indent=1) + "\n"
        )


def dub(url: str, scene: Dialog, result: Path) -> Job:
    """The job once it is over, its result in a file."""
    segments = [
        {"audio": line.audio, "start_s": line.start_s, "end_s": line.end_s, "face": line.face} for line in scene.lines
    ]
    with Client(url) as client:
        sent = client.submit(scene.video, segments=segments, engine="preview", output={"crf": 0})
        job = finished(client, sent)
        client.download(job, result)
    return job


if __name__ == "__main__":
    main()
