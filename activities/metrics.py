"""The product's own metrics, beside the SDK's on the worker's Prometheus endpoint. Labels come from closed sets."""

from __future__ import annotations

from functools import lru_cache

from temporalio.common import MetricCounter, MetricGaugeFloat, MetricHistogramFloat, MetricMeter

METRICS: dict[str, str] = {
    "drayage_objects": "objects settled, by route and outcome",
    "drayage_bytes": "bytes sent to destinations, by route",
    "drayage_failures": "failed attempts, by route, reason and whether they are retried",
    "drayage_activity_seconds": "duration of an attempt, by activity",
    "drayage_event_seconds": "from a change at the source, as its event tells, to the replica, by route",
    "drayage_open_objects": "object workflows that are open, by route and how long ago they began at least",
    "drayage_resting_objects": "objects in the quarantine, by route and reason",
    "drayage_pending_deletions": "deletions that passes have collected and not made, by route",
    "drayage_last_pass_ended_seconds": "when the last pass ended, by route and mode, in seconds since 1970",
    "drayage_last_pass": "what the last pass counted, by route, mode and counter",
    "drayage_housekeeping": "unfinished uploads seen by a sweep, by what was done",
}


_meter: MetricMeter = MetricMeter.noop


def bind(meter: MetricMeter) -> None:
    """Sends everything to `meter`, the runtime's; called once by the worker. Until then nothing is recorded."""
    global _meter
    _meter = meter
    _counter.cache_clear()
    _histogram.cache_clear()
    _gauge.cache_clear()


@lru_cache(maxsize=32)
def _counter(name: str) -> MetricCounter:
    return _meter.create_counter(name, METRICS[name])


@lru_cache(maxsize=4)
def _histogram(name: str) -> MetricHistogramFloat:
    return _meter.create_histogram_float(name, METRICS[name], "s")


@lru_cache(maxsize=8)
def _gauge(name: str) -> MetricGaugeFloat:
    return _meter.create_gauge_float(name, METRICS[name])


def gauge(name: str, value: float, **labels: str) -> None:
    _gauge(name).set(value, labels)


def settled(route: str, outcome: str, bytes_sent: int) -> None:
    _counter("drayage_objects").add(1, {"route": route, "outcome": outcome})
    sent(route, bytes_sent)


def sent(route: str, bytes_sent: int) -> None:
    if bytes_sent:
        _counter("drayage_bytes").add(bytes_sent, {"route": route})


def failure(route: str, reason: str, *, retried: bool) -> None:
    _counter("drayage_failures").add(1, {"route": route, "reason": reason, "retried": str(retried).lower()})


def seconds(activity_type: str, elapsed_s: float) -> None:
    _histogram("drayage_activity_seconds").record(elapsed_s, {"activity": activity_type})


def followed(route: str, elapsed_s: float) -> None:
    _histogram("drayage_event_seconds").record(elapsed_s, {"route": route})


def swept(action: str, count: int) -> None:
    if count:
        _counter("drayage_housekeeping").add(count, {"action": action})
