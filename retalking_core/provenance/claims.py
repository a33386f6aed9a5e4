"""What a signed result says about itself, as a C2PA manifest definition (C2PA 2.x, actions v2). Pure data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC NewsCodes, edition of September 2024. The neural engine draws parts of real frames with trained networks, as the
# first term means it ("such as with inpainting"). The preview engine bends and paints real pixels by rule: no trained
# network makes a pixel, so the terms with trained or generative AI would be false (`compositeSynthetic` now
# means generative AI too); it changes what a person seems to say, so `algorithmicallyEnhanced` ("without changing the
# main content") would belittle it. `composite` claims neither.
SOURCE_TYPES = {
    "videoretalking": f"{_IPTC}compositeWithTrainedAlgorithmicMedia",
    "preview": f"{_IPTC}composite",
}
VIDEO, SPEECH = "video", "speech"


@dataclass(frozen=True)
class InputFile:
    """path: as fetched; mime: its kind by its own bytes, e.g. `video/mp4`."""

    path: Path
    mime: str

    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ProvenanceClaim:
    """Who made the result, and of what. mime: of the result. badge: the picture itself carries a visible note."""

    engine: str
    engine_version: str
    synthetic_weights: bool
    video: InputFile
    speech: InputFile
    mime: str
    badge: bool = False


def manifest_definition(claim: ProvenanceClaim) -> dict[str, Any]:
    """The manifest without its inputs. Names of files, people and jobs are not in it: results are passed on."""
    source_type = SOURCE_TYPES.get(claim.engine)
    agent = {"name": "Retalking", "version": claim.engine_version}
    lips: dict[str, Any] = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "description": _describe(claim),
        "parameters": {
            "com.retalking.engine": claim.engine,
            "com.retalking.synthetic_weights": claim.synthetic_weights,
        },
    }
    if source_type:
        lips["digitalSourceType"] = source_type
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": [VIDEO]}},
        lips,
        {
            "action": "c2pa.placed",
            "description": "The speech track took the place of the sound",
            "parameters": {"ingredientIds": [SPEECH]},
        },
    ]
    if claim.badge:
        note = "A visible badge says that the video is synthetic"
        actions.append({"action": "c2pa.addedText", "softwareAgent": agent, "description": note})
    return {
        "claim_generator_info": [agent],
        "title": "Lip-synced video",
        "format": claim.mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def ingredient(name: str, relationship: str, file: InputFile, note: str = "") -> dict[str, Any]:
    """An input as C2PA records it. Its digest lets who holds the file prove that it was this one."""
    return {
        "title": f"Input {name}",
        "label": name,
        "format": file.mime,
        "relationship": relationship,
        "description": f"SHA-256 {file.sha256()}{note}",
    }


def _describe(claim: ProvenanceClaim) -> str:
    text = f"Synthetic media: the mouth was made to speak another track, by the engine {claim.engine}"
    return f"{text}; with generated, untrained weights" if claim.synthetic_weights else text
