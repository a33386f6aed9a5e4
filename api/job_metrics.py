"""What the store counted of jobs, and what workers tell of their devices, as Prometheus families.

Families stand there also while nothing was counted: dashboards and alerts find them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.models import WorkerInfo
from jobs.store import Tally

# Kind in the tally -> name, help, label
_COUNTS = {
    "finished": ("retalking_jobs_finished", "Jobs that ended, by status", "status"),
    "failed": ("retalking_jobs_failed", "Jobs that failed, by error code", "code"),
    "requeued": ("retalking_jobs_requeued", "Attempts that ended without an outcome, by reason", "reason"),
    "webhook": ("retalking_webhook_attempts", "Deliveries: delivered, pending (tried again), given_up", "outcome"),
    "quarantined": ("retalking_records_quarantined", "Records that could not be read, by kind", "kind"),
    "webhook_breaker": ("retalking_webhook_breaker", "Receivers not tried for a while after failures", "event"),
    "janitor_failed": ("retalking_janitor_failures", "Items that the janitor could not deal with, by line", "line"),
    "face_cache": ("retalking_face_cache", "Renders by what the face cache had", "outcome"),
}
_DURATIONS = {
    "wait": ("retalking_job_wait_seconds", "From submission to the first start, by priority", ["priority"]),
    "stage": ("retalking_job_stage_seconds", "Wall time of a stage", ["stage"]),
    "run": ("retalking_job_run_seconds", "Wall time of an attempt that succeeded", []),
}


def tally_families(tally: Tally) -> list[Metric]:
    families: list[Metric] = []
    for kind, (name, text, label) in _COUNTS.items():
        counter = CounterMetricFamily(name, text, labels=[label])
        for value, number in sorted(tally.counts.get(kind, {}).items()):
            counter.add_metric([value], number)
        families.append(counter)
    for kind, (name, text, labels) in _DURATIONS.items():
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for value, durations in sorted(tally.durations.get(kind, {}).items()):
            buckets = [("+Inf" if bound == math.inf else f"{bound:g}", seen) for bound, seen in durations.buckets]
            histogram.add_metric([value] if labels else [], buckets, durations.sum_s)
        families.append(histogram)
    return families


def gpu_family(workers: Sequence[WorkerInfo]) -> Metric:
    """Of the whole device, as its driver says; workers that share one tell the same."""
    gauge = GaugeMetricFamily("retalking_gpu_memory_bytes", "Memory of a device", labels=["worker", "device", "kind"])
    for worker in workers:
        for device in worker.gpu_memory:
            gauge.add_metric([worker.id, device.device, "used"], device.used_bytes)
            gauge.add_metric([worker.id, device.device, "total"], device.total_bytes)
    return gauge
