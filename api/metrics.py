"""Prometheus metrics: what this process served, and what the store says about the queue when it is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from api.job_metrics import gpu_family, tally_families
from jobs.store import JobStore

logger = logging.getLogger("retalking.api")

# Uploads of 2 GB take minutes; everything else should sit in the first buckets.
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)


class RequestMetrics:
    """Counters of one app, in a registry of its own: two apps in one process (tests) do not collide."""

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
    """What waits, what lives and what happened, read from the store on every scrape."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not reach for the store."""
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
        for priority, count in sorted(self._store.queue_depths().items()):
            depth.add_metric([str(priority)], count)
        jobs = GaugeMetricFamily("retalking_jobs", "Jobs in the store by status", labels=["status"])
        counts = self._store.count_by_status()
        for status, count in counts.items():
            jobs.add_metric([str(status)], count)
        # For autoscalers, which want one number without labels: the render workers that there is work for
        fetching = self._store.fetch_count()
        fetches = GaugeMetricFamily("retalking_fetches", "Queued jobs whose inputs are still to be fetched")
        fetches.add_metric([], fetching)
        demand = GaugeMetricFamily("retalking_render_demand", "Jobs that wait and jobs in work")
        live_jobs = sum(count for status, count in counts.items() if not status.is_over)
        demand.add_metric([], max(0, live_jobs - fetching))
        live = self._store.workers()
        workers = GaugeMetricFamily("retalking_workers", "Live render workers")
        workers.add_metric([], len(live))
        busy = GaugeMetricFamily("retalking_workers_busy", "Live render workers with a job in work")
        busy.add_metric([], sum(worker.busy_with is not None for worker in live))
        quarantine = GaugeMetricFamily("retalking_quarantine_records", "Records in quarantine now")
        quarantine.add_metric([], self._store.quarantine_size())
        backlog = self._store.webhook_backlog()
        webhooks = GaugeMetricFamily(
            "retalking_webhooks", "Events to deliver: pending (due among them), and given up", labels=["state"]
        )
        for state in ("pending", "due", "given_up"):
            webhooks.add_metric([state], getattr(backlog, state))
        stuck = GaugeMetricFamily("retalking_janitor_stuck", "Items that the janitor failed on and will try again")
        stuck.add_metric([], self._store.failing_count())
        gauges = [webhooks, fetches, stuck, quarantine, depth, jobs, demand, workers, busy, gpu_family(live)]
        return [*gauges, *tally_families(self._store.tally())]
