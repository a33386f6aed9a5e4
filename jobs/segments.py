"""The contract of a job that several workers render: a plan, and segments that are leased one by one.

The worker that holds the job's lease (its owner) analyzes the clip, writes the plan, renders segments like everybody
else, waits for the rest and joins them. A segment that a helper lost or gave back is left to the owner: a segment that
kills its worker ends like a job that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from jobs.leases import Lease
from jobs.models import RenderNote


class SplitPlan(BaseModel):
    """What helpers must know. segments: how many. renderer: only workers that name themselves equally may help, since
    others would draw or encode differently. analyzed: share of the job's render that the analysis was, 0..1."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    engine: str
    renderer: str
    frames: int = Field(ge=1)
    segments: int = Field(ge=1)
    scene_key: str
    video_key: str
    analyzed: float = Field(ge=0, le=1)


class SegmentOutcome(BaseModel):
    """A finished segment. key: of its pictures. stage_times_s, notes: as the engine reported them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    worker: str
    stage_times_s: dict[str, float] = Field(default_factory=dict)
    notes: list[RenderNote] = Field(default_factory=list)


@dataclass(frozen=True)
class SegmentLease:
    """The right to render one segment. fence: grows with every claim of any segment of the job. attempt: how often this
    segment was begun."""

    job_id: str
    worker_id: str
    number: int
    fence: int
    attempt: int


@dataclass(frozen=True)
class SplitState:
    """progress: 0..1, of all segments together. waiting: segments that a helper could take now. done: by number."""

    plan: SplitPlan
    progress: float
    waiting: int
    done: dict[int, SegmentOutcome]

    @property
    def is_complete(self) -> bool:
        return len(self.done) == self.plan.segments


class SegmentStore(Protocol):
    """Every transition is atomic and fenced, as in JobStore; a split ends with its job, in the same atomic step."""

    def open_split(self, lease: Lease, plan: SplitPlan) -> None:
        """All segments wait from now on; a split that was there before is forgotten. Raises LeaseLostError."""
        ...

    def split_state(self, job_id: str) -> SplitState | None:
        """None: the job is not split, or over."""
        ...

    def claim_segment(
        self, job_id: str, worker_id: str, lease_s: float, owner: Lease | None = None
    ) -> SegmentLease | None:
        """A segment that nobody works on. Helpers get those never begun before, the owner any. None: there is none, a
        cancel was asked for, or the job is over. Raises LeaseLostError when `owner` does not hold the job any more."""
        ...

    def report_segment(self, lease: SegmentLease, progress: float | None, lease_s: float) -> bool:
        """Renew, and tell how much of the segment is done (0..1). True: the caller wants the job canceled. Raises
        LeaseLostError when the segment or the job is over or in other hands."""
        ...

    def finish_segment(self, lease: SegmentLease, outcome: SegmentOutcome) -> None:
        """Raises LeaseLostError: then the pictures are nobody's, delete them."""
        ...

    def release_segment(self, lease: SegmentLease, *, count_attempt: bool) -> None:
        """Give it back unfinished. One that is in other hands by now stays there."""
        ...

    def ended_splits(self, limit: int = 100) -> list[str]:
        """Jobs that are over and whose segment files are to be deleted."""
        ...

    def drop_split(self, job_id: str) -> None:
        """The segment files are deleted."""
        ...
