"""Names of the stages that progress reports and job views mention."""

from __future__ import annotations

from typing import Literal, get_args

JobStage = Literal["fetch", "analyze", "synthesize", "evaluate", "publish"]
"""Stages of a job, in order. An engine reports `analyze` and `synthesize`, the evaluation `evaluate`."""

JOB_STAGES: tuple[JobStage, ...] = get_args(JobStage)
