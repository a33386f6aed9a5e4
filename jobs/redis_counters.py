"""What happened so far, as the scripts counted it: one hash of numbers that only grow."""

from __future__ import annotations

import math
from collections import defaultdict

from jobs.redis_base import RedisPart
from jobs.store import Durations, Tally

# As in jobs/lua/prelude.lua; the last bucket there is `inf`.
BOUNDS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BUCKETS = [*(f"{bound:g}" for bound in BOUNDS_S), "inf"]


class Counters(RedisPart):
    def tally(self) -> Tally:
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        series: dict[str, dict[str, int]] = defaultdict(dict)
        for field, value in self._client.hgetall(self._key("counters")).items():
            if not value.lstrip("-").isdecimal():  # not counted by our scripts; the other counts stand without it
                continue
            name, bar, bucket = field.partition("|")
            if bar:
                series[name][bucket] = int(value)
            else:
                kind, _, label = name.partition(":")
                counts[kind][label] = int(value)
        durations: dict[str, dict[str, Durations]] = defaultdict(dict)
        for name, told in series.items():
            kind, _, label = name.partition(":")
            durations[kind][label] = _durations(told)
        return Tally(dict(counts), dict(durations))


def _durations(told: dict[str, int]) -> Durations:
    """From counts of each bucket alone to counts of all that are no longer than its bound."""
    seen, buckets = 0, []
    for bound, bucket in zip((*BOUNDS_S, math.inf), _BUCKETS, strict=True):
        seen += told.get(bucket, 0)
        buckets.append((bound, seen))
    return Durations(tuple(buckets), told.get("sum_ms", 0) / 1000)
