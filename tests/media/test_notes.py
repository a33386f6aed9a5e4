"""Typed notes: joined over the segments of a split job, and listed for callers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from retalking_core.notes import NOTE_CODES, Note, frame_ranges_s, merge_notes

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"


def test_notes_of_segments_are_one_note_with_all_ranges() -> None:
    first = Note("face_parts_not_found", "Kept.", ((0.0, 1.0), (3.0, 4.0)))
    second = Note("face_parts_not_found", "Kept.", ((4.0, 4.5),))
    other = Note("split_render", "Two segments.")
    assert merge_notes([first, other, second, other]) == [
        Note("face_parts_not_found", "Kept.", ((0.0, 1.0), (3.0, 4.5))),
        other,
    ]


def test_frames_become_ranges() -> None:
    assert frame_ranges_s([7, 0, 1, 2], 25) == ((0.0, 0.12), (0.28, 0.32))
    assert frame_ranges_s([29], Fraction(30000, 1001)) == ((0.968, 1.001),)
    assert frame_ranges_s([], 25) == ()


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown note code"):
        Note("nonsense", "?")


def test_every_code_is_documented() -> None:
    rows = {
        code.strip(" `"): meaning.strip()
        for _, code, meaning, _ in (line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `"))
        if code.strip(" `") in NOTE_CODES
    }
    assert rows == NOTE_CODES
