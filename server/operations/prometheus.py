"""Metrics of a deployment in the Prometheus text format. The table in docs/guides/operations.md lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ...orchestration.engine.worker_directory import SeenWorker
from ...orchestration.inspection.metrics import BOUNDS, Histogram, Metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Metric -> counter and help text. The counters in _DUPLICATES are reported as kinds of absorbed duplicates.
_PLAIN = {
    "retries": ("retries", "Failed attempts that are retried"),
    "dead_letters": ("dead_letters", "Steps that failed and were not retried, with their run; umbel retry resumes it"),
    "losses": ("losses", "Attempts lost because their process died"),
    "lease_expiries": ("lost_owners", "Processes that were declared dead while they executed steps"),
    "deadlines": ("deadlines", "Attempts that hung beyond the step's timeout and were given up"),
    "redispatches": ("redispatches", "Dispatches repeated because no worker had claimed the step"),
    "stale_commits": ("stale_commits", "Outcomes refused because the step had been reassigned to another process"),
}
_DUPLICATES = {
    "dispatch": "duplicate_doorbells",
    "stale_doorbell": "stale_doorbells",
    "send": "absorbed_sends",
    "commit": "repeated_commits",
}


def exposition(
    metrics: Metrics, workers: Iterable[SeenWorker], quarantined: Mapping[str, int], stream_readers: int
) -> bytes:
    """The response of `/metrics`.

    Args:
        metrics: Of the whole deployment.
        workers: The registered workers.
        quarantined: Queue -> total of quarantined broker messages.
        stream_readers: Open streams of this server process; the only metric that is not deployment-wide.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FixedCollector([*_families(metrics, list(workers), quarantined, stream_readers)]))
    return generate_latest(registry)


class _FixedCollector(Collector):
    """Metrics that have already been read."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(
    metrics: Metrics, workers: list[SeenWorker], quarantined: Mapping[str, int], stream_readers: int
) -> Iterator[Metric]:
    runs = GaugeMetricFamily("umbel_runs", "Runs by status; ended runs while they are retained", labels=["status"])
    for status, number in metrics.runs.items():
        runs.add_metric([status], number)
    yield runs

    took = HistogramMetricFamily(
        "umbel_step_seconds", "From the claim of a step to the commit of its outcome", labels=["workflow", "step"]
    )
    for (workflow, step), histogram in metrics.steps.items():
        took.add_metric([workflow, step], *_buckets(histogram))
    yield took

    waited = HistogramMetricFamily(
        "umbel_queue_wait_seconds", "From the dispatch of a step to its claim by a worker", labels=["queue"]
    )
    for queue, histogram in metrics.waits.items():
        waited.add_metric([queue], *_buckets(histogram))
    yield waited

    for name, (counter, text) in _PLAIN.items():
        yield CounterMetricFamily(f"umbel_{name}", text, value=metrics.counters[counter])
    duplicates = CounterMetricFamily(
        "umbel_absorbed_duplicates", "Duplicate messages and commands that were absorbed", labels=["kind"]
    )
    for kind, counter in _DUPLICATES.items():
        duplicates.add_metric([kind], metrics.counters[counter])
    yield duplicates
    aside = CounterMetricFamily(
        "umbel_quarantined_messages", "Broker messages that could not be decoded", labels=["queue"]
    )
    for queue, number in quarantined.items():
        aside.add_metric([queue], number)
    yield aside

    waiting = GaugeMetricFamily(
        "umbel_unclaimed_steps", "Dispatched steps that no worker has claimed", labels=["queue"]
    )
    oldest = GaugeMetricFamily(
        "umbel_unclaimed_oldest_seconds", "How long the oldest of them has waited", labels=["queue"]
    )
    for queue, unclaimed in metrics.unclaimed.items():
        waiting.add_metric([queue], unclaimed.number)
        oldest.add_metric([queue], unclaimed.oldest_seconds)
    yield waiting
    yield oldest
    yield GaugeMetricFamily(
        "umbel_parked_steps", "Steps waiting for a worker that has their code", value=metrics.parked
    )
    yield GaugeMetricFamily(
        "umbel_runs_waiting_for_place", "Runs held back by num_concurrent_runs", value=metrics.waiting_for_place
    )
    yield GaugeMetricFamily(
        "umbel_sweep_lag_seconds", "How long the oldest due timer or lease is overdue", value=metrics.sweep_lag_seconds
    )
    alive = GaugeMetricFamily("umbel_workers", "Workers that have registered", labels=["state"])
    alive.add_metric(["live"], sum(worker.is_live for worker in workers))
    alive.add_metric(["silent"], sum(not worker.is_live for worker in workers))
    yield alive
    yield GaugeMetricFamily("umbel_stream_readers", "Open event streams of this server process", value=stream_readers)


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts by upper bound in seconds, and the sum in seconds."""
    bounds = [*(str(bound / 1000) for bound in BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total_ms / 1000
