"""What a data set holds: which video is to speak which track."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retalking_client.cli.failures import EXIT_USAGE, CommandError

PAIRS_FILE = "pairs.csv"
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg", ".webp"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".m4a", ".flac", ".ogg"})


@dataclass(frozen=True)
class Pairing:
    """One clip to render. name: for people. audio may be the video itself."""

    name: str
    video: Path
    audio: Path

    def digest(self, engine: str) -> str:
        """Names the clip's folder: the same content rendered by the same engine is the same clip, whatever its name."""
        whole = hashlib.sha256(engine.encode())
        for path in (self.video, self.audio):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:16]


def find_pairings(folder: Path) -> list[Pairing]:
    """In this order: the rows of `pairs.csv` (columns video, audio, and name if there is one); every file of `video/`
    with every file of `audio/`, or of `val/face/` with `val/audio/` (talkingface-toolkit); each video of the folder
    with the track of the same name, or with its own sound.

    Raises CommandError when there is nothing to render, or a file is missing.
    """
    if (folder / PAIRS_FILE).is_file():
        pairings = list(_listed(folder))
    elif crossed := next(filter(_is_crossed, (folder / faces for faces in ("video", "val/face"))), None):
        tracks = _files(crossed.parent / "audio", AUDIO_SUFFIXES | VIDEO_SUFFIXES)
        pairings = [
            Pairing(f"{video.stem} + {audio.stem}", video, audio)
            for video in _files(crossed, VIDEO_SUFFIXES)
            for audio in tracks
        ]
    else:
        tracks = {path.stem: path for path in _files(folder, AUDIO_SUFFIXES)}
        pairings = [
            Pairing(video.stem, video, tracks.get(video.stem, video)) for video in _files(folder, VIDEO_SUFFIXES)
        ]
    if not pairings:
        raise CommandError("dataset_empty", f"{folder} holds no videos to render (docs/evaluation.md).", EXIT_USAGE)
    return pairings


def _is_crossed(faces: Path) -> bool:
    """Whether a folder of faces has one of tracks beside it."""
    return faces.is_dir() and (faces.parent / "audio").is_dir()


def _listed(folder: Path) -> Iterator[Pairing]:
    with (folder / PAIRS_FILE).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"video", "audio"} <= set(rows.fieldnames or ()):
            raise CommandError("dataset_invalid", f"{PAIRS_FILE} needs the columns video and audio.", EXIT_USAGE)
        for row in rows:
            video, audio = (folder / (row[column] or "") for column in ("video", "audio"))
            for path in (video, audio):
                if not path.is_file():
                    raise CommandError("file_not_found", f"{PAIRS_FILE}, line {rows.line_num}: no file {path}.")
            yield Pairing(row.get("name") or f"{video.stem} + {audio.stem}", video, audio)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes)
