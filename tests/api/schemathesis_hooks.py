"""What schemathesis sends besides what the schema describes: real small media, uploads that hold their file, and
metadata that does harm."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st

from tests.api.running import PNG
from tests.media.clips import make_speech, make_video, make_wav


def _made() -> dict[str, bytes]:
    """Media that a worker could render, of a few kilobytes each."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = {
            "video": make_video(root / "v.mp4", frames=3, speech_s=0.1),
            "film": make_video(root / "v.mkv", frames=3),
            "speech": make_wav(root / "a.wav", 0.1),
            "song": make_speech(root / "a.mp3", "mp3", 0.1),
            "flac": make_speech(root / "a.flac", "flac", 0.1),
        }
        return {name: path.read_bytes() for name, path in paths.items()}


MEDIA = _made()
_FILES = {
    MEDIA["video"]: ["video/mp4", "video/quicktime", "audio/mp4"],
    MEDIA["film"]: ["video/x-matroska", "video/webm"],
    b"RIFF\0\0\0\0AVI " + bytes(100): ["video/x-msvideo"],
    PNG: ["image/png"],
    b"\xff\xd8\xff\xe0" + bytes(100): ["image/jpeg"],
    b"RIFF\0\0\0\0WEBP" + bytes(100): ["image/webp"],
    MEDIA["speech"]: ["audio/wav"],
    MEDIA["song"]: ["audio/mpeg"],
    MEDIA["flac"]: ["audio/flac"],
    b"OggS" + bytes(100): ["audio/ogg"],
}
for content, (name, *aliases) in _FILES.items():
    schemathesis.openapi.media_type(name, st.just(content), aliases=aliases)


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


# Each of them was stored by some version, and unreadable or harmful from then on.
HOSTILE = [
    nested(199),
    nested(17),
    {"n": 10**30},
    {"a": "\x00"},
    {"a\x1b[2J": "\x9b31m"},
    {"a": [0] * 2000},
    {"n" * 300: 1},
]


# Options that one engine refuses and the other honors: most generated bodies ask for both at once.
ENGINE_SPECIFIC = ("engine", "expression", "upper_face", "one_shot", "transcript")
UPLOADS = [os.environ["RETALKING_TEST_UPLOAD_ID"]]  # ids of those that hold their file


@schemathesis.hook.apply_to(method="POST", path_regex=r"^/v1/(jobs|videos/analyze)(/upload)?$")  # type: ignore[attr-defined]
def before_call(context: Any, case: Any, **_: Any) -> None:
    """A third of the bodies, chosen by their content so that a run can be repeated, carry such metadata. The other
    ones by reference name an upload that is there, because no generated address leads to a file."""
    if isinstance(case.body, dict) and case.meta is not None:  # not one of GOOD
        number = len(json.dumps(case.body, default=str))
        if number % 3 != 0 and case.media_type == "application/json":
            for name in ("video_url", "audio_url", "webhook_url", "webhook_events", "evaluate", *ENGINE_SPECIFIC):
                case.body.pop(name, None)
            names = ("video_upload_id",) if "videos" in case.path else ("video_upload_id", "audio_upload_id")
            case.body |= dict.fromkeys(names, UPLOADS[-1])
        if number % 3 == 0:
            hostile = HOSTILE[number % len(HOSTILE)]
            is_form = case.media_type == "multipart/form-data"
            case.body["metadata"] = json.dumps(hostile) if is_form else hostile


@schemathesis.hook.apply_to(method="POST", path="/v1/batches")  # type: ignore[attr-defined]
def before_call(context: Any, case: Any, **_: Any) -> None:  # noqa: F811 - hooks are found by their names
    """A third of the bodies, chosen as above, is a batch of jobs with an upload that is there."""
    if isinstance(case.body, dict) and case.meta is not None and len(json.dumps(case.body, default=str)) % 3 == 1:
        job = dict.fromkeys(("video_upload_id", "audio_upload_id"), UPLOADS[-1])
        case.body = {"jobs": [job | {"seed": seed} for seed in range(3)]}


GOOD = {
    "/v1/jobs": {"video_upload_id": UPLOADS[0], "audio_upload_id": UPLOADS[0]},
    "/v1/jobs/upload": {"video": MEDIA["video"], "audio": MEDIA["speech"]},
    "/v1/videos/analyze": {"video_upload_id": UPLOADS[0]},
    "/v1/videos/analyze/upload": {"video": MEDIA["video"]},
    "/v1/batches": {"jobs": [{"video_upload_id": UPLOADS[0], "audio_upload_id": UPLOADS[0]}]},
}


@schemathesis.hook
def before_add_examples(context: Any, examples: list[Any]) -> None:
    """Each of these gets a call that is accepted, whatever the seed draws."""
    operation = context.operation
    if operation.method.upper() == "POST" and operation.path in GOOD:
        (media_type,) = operation.get_request_payload_content_types()
        examples.append(operation.Case(body=GOOD[operation.path], media_type=media_type))


@schemathesis.hook.apply_to(method="POST", path="/v1/uploads")  # type: ignore[attr-defined]
def after_call(context: Any, case: Any, response: Any) -> None:
    """The link gets its file, so that the jobs made of it are real."""
    if response.status_code == 201:
        assert httpx.put(response.json()["url"], content=MEDIA["video"]).status_code == 200
        UPLOADS.append(response.json()["id"])


@schemathesis.hook.apply_to(path_regex=r"^/v1/(keys|accounts)/")  # type: ignore[attr-defined]
def before_call(context: Any, case: Any, **_: Any) -> None:  # noqa: F811 - hooks are found by their names
    """The key that the run calls with, and its account, stay as they are: lists name them."""
    for name, value in (case.path_parameters or {}).items():
        if value == os.environ["RETALKING_TEST_KEY_ID"]:
            case.path_parameters[name] = "0" * 16


@schemathesis.hook.apply_to(method="POST", path="/v1/keys")  # type: ignore[attr-defined]
def before_call(context: Any, case: Any, **_: Any) -> None:  # noqa: F811 - hooks are found by their names
    """Limits are for new accounts, which no schema says: a body that is right in itself names one or the other."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("account"), str) and len(body["account"]) <= 64:
        limits = ("requests_per_minute", "live_jobs", "stored_bytes")
        if any(body.get(name) is not None for name in limits):
            del body["account"]
