"""The one way in which a number is not had."""

from __future__ import annotations


class UnmeasurableError(Exception):
    """A number that can not be had for this render; `reason` is the sentence for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
