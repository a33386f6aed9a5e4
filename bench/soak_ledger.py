"""What happened in a soak: jobs that were accepted, what hostile callers were told, calls that failed, violations."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

# At most this many examples of one violation are kept.
EXAMPLES = 5


@dataclass
class Accepted:
    """A job that was answered with 202. ends: how it may end, as `succeeded`, `canceled` or `failed <code>`.

    is_hostile: its receiver and its media are not those that the service's own clips give. is_deleted: its caller
    deleted it after its end.
    """

    job_id: str
    what: str
    ends: frozenset[str]
    is_hostile: bool = False
    is_deleted: bool = False


@dataclass(frozen=True)
class Failure:
    """A call that a killed process may explain; by time.monotonic()."""

    what: str
    began: float
    ended: float


@dataclass
class Ledger:
    """Written by many threads."""

    accepted: list[Accepted] = field(default_factory=list)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    submit_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, job: Accepted) -> None:
        with self._lock:
            self.accepted.append(job)

    def answer(self, ingredient: str, outcome: str) -> None:
        with self._lock:
            self.answers.setdefault(ingredient, Counter())[outcome] += 1

    def fail(self, what: str, began: float) -> None:
        with self._lock:
            self.failures.append(Failure(what, began, time.monotonic()))

    def violate(self, kind: str, example: str = "") -> None:
        with self._lock:
            self.violations[kind] += 1
            examples = self.examples.setdefault(kind, [])
            if len(examples) < EXAMPLES:
                examples.append(example[:500])

    def judge_failures(self, explains: Callable[[float, float], bool]) -> int:
        """Those that no kill explains are violations. Returns how many a kill explains."""
        explained = [explains(failure.began, failure.ended) for failure in self.failures]
        for failure, is_explained in zip(self.failures, explained, strict=True):
            if not is_explained:
                self.violate(f"{failure.what}, with no kill near")
        return sum(explained)

    def report(self) -> list[dict[str, Any]]:
        """Violations, the most frequent first."""
        rows = self.violations.most_common()
        return [{"violation": kind, "times": times, "examples": self.examples[kind]} for kind, times in rows]


def outcome_of(answer: httpx.Response) -> str:
    """`202`, or the status with the public code: `422 invalid_option`. An error without a code shows as `500 -`."""
    if answer.status_code < 400:
        return str(answer.status_code)
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    code = problem.get("code") if isinstance(problem, Mapping) else None
    return f"{answer.status_code} {code or '-'}"
