"""Prometheus metrics: requests of this process, and what the job store counted, read on every scrape.

Families without samples are exported too, so that dashboards and alerts find them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from jobs.models import WorkerInfo
from jobs.store import JobStore, Tally
from retalking_core.vocabulary.engines import KernelState

logger = logging.getLogger("retalking.api")

# Uploads of 2 GB take minutes; everything else should fall into the first buckets.
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)


class RequestMetrics:
    """Counters of one app in its own registry, so that two apps in one process (tests) do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "retalking_http_requests",
            "Requests by route, method and status",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.latency_s = Histogram(
            "retalking_http_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response",
            ["route", "method"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.upload_bytes = Counter(
            "retalking_upload_bytes", "Bytes of input files received through the API", registry=self.registry
        )
        self.listeners = Counter("retalking_event_streams", "Event streams opened", registry=self.registry)


class StoreCollector(Collector):
    """Queue, workers and totals, read from the job store on every scrape."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering does not read the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("retalking_store_up", "1 when the job store answered this scrape")
        try:
            families = self._read()
            up.add_metric([], 1)
        except (RedisError, OSError) as error:
            logger.warning("The job store did not answer a scrape: %s", type(error).__name__)
            families = []
            up.add_metric([], 0)
        yield up
        yield from families

    def _read(self) -> list[Metric]:
        depth = GaugeMetricFamily("retalking_queue_depth", "Waiting jobs by priority", labels=["priority"])
        for priority, count in sorted(self._store.jobs.queue_depths().items()):
            depth.add_metric([str(priority)], count)
        jobs = GaugeMetricFamily("retalking_jobs", "Jobs in the store by status", labels=["status"])
        counts = self._store.jobs.count_by_status()
        for status, count in counts.items():
            jobs.add_metric([str(status)], count)
        # For autoscalers, which need one number without labels: render workers that have work to do
        fetching = self._store.fetches.count()
        fetches = GaugeMetricFamily("retalking_fetches", "Queued jobs whose inputs are still to be fetched")
        fetches.add_metric([], fetching)
        exports = GaugeMetricFamily("retalking_exports", "Results on their way to where their callers want them")
        exports.add_metric([], self._store.exports.count())
        items = GaugeMetricFamily("retalking_batch_items", "Items of batches that are not jobs yet")
        items.add_metric([], self._store.batches.count_waiting())
        demand = GaugeMetricFamily("retalking_render_demand", "Jobs that wait and jobs in work")
        live_jobs = sum(count for status, count in counts.items() if not status.is_over)
        demand.add_metric([], max(0, live_jobs - fetching))
        live = self._store.workers.live()
        workers = GaugeMetricFamily("retalking_workers", "Live render workers")
        workers.add_metric([], len(live))
        busy = GaugeMetricFamily("retalking_workers_busy", "Live render workers with a job in work")
        busy.add_metric([], sum(worker.busy_with is not None for worker in live))
        quarantine = GaugeMetricFamily("retalking_quarantine_records", "Records in quarantine now")
        quarantine.add_metric([], self._store.quarantine.size())
        backlog = self._store.webhooks.backlog()
        webhooks = GaugeMetricFamily(
            "retalking_webhooks", "Events to deliver: pending (due among them), and given up", labels=["state"]
        )
        for state in ("pending", "due", "given_up"):
            webhooks.add_metric([state], getattr(backlog, state))
        stuck = GaugeMetricFamily("retalking_janitor_stuck", "Items that the janitor failed on and will try again")
        stuck.add_metric([], self._store.janitor_failures.count())
        gauges = [webhooks, fetches, exports, items, stuck, quarantine, depth, jobs, demand, workers, busy]
        return [*gauges, gpu_family(live), kernels_family(live), *tally_families(self._store.counters.tally())]


# Kind in the tally -> name, help, label
_COUNTS = {
    "finished": ("retalking_jobs_finished", "Jobs that ended, by status", "status"),
    "failed": ("retalking_jobs_failed", "Jobs that failed, by error code", "code"),
    "requeued": ("retalking_jobs_requeued", "Attempts that ended without an outcome, by reason", "reason"),
    "webhook": ("retalking_webhook_attempts", "Deliveries: delivered, pending (tried again), given_up", "outcome"),
    "export": ("retalking_export_attempts", "Exports of results: done, pending (tried again), failed", "outcome"),
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


def kernels_family(workers: Sequence[WorkerInfo]) -> Metric:
    gauge = GaugeMetricFamily("retalking_workers_kernels", "Live render workers by their kernels", labels=["kernels"])
    for state in get_args(KernelState):
        gauge.add_metric([state], sum(worker.kernels == state for worker in workers))
    return gauge


def gpu_family(workers: Sequence[WorkerInfo]) -> Metric:
    """Memory of the whole device, as reported by its driver; workers that share a device report the same."""
    gauge = GaugeMetricFamily("retalking_gpu_memory_bytes", "Memory of a device", labels=["worker", "device", "kind"])
    for worker in workers:
        for device in worker.gpu_memory:
            gauge.add_metric([worker.id, device.device, "used"], device.used_bytes)
            gauge.add_metric([worker.id, device.device, "total"], device.total_bytes)
    return gauge
