"""What the ingestors count, on the Prometheus endpoint of their process. Labels come from closed sets and route names."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from temporalio.common import MetricCounter, MetricGaugeFloat, MetricMeter

Source = Literal["sqs", "pubsub", "webhook", "watch"]

METRICS: dict[str, str] = {
    "drayage_ingest_received": "messages, requests or file changes received, by source",
    "drayage_ingest_tests": "test events, which ask for nothing, by source",
    "drayage_ingest_coalesced": "events that a start already under way answers too, by route",
    "drayage_ingest_started": "object workflows started or signalled, by route",
    "drayage_ingest_quarantined": "events that cannot be read or belong to no route, by source and reason",
    "drayage_ingest_oldest_seconds": "age of the oldest event that is not acknowledged, by source",
}

_meter: MetricMeter = MetricMeter.noop
_ages: dict[tuple[Source, str], float] = {}


def bind(meter: MetricMeter) -> None:
    """Sends everything to `meter`, the runtime's; called once by the entry point. Until then nothing is recorded."""
    global _meter
    _meter = meter
    _counter.cache_clear()
    _gauge.cache_clear()


@lru_cache(maxsize=16)
def _counter(name: str) -> MetricCounter:
    return _meter.create_counter(name, METRICS[name])


@lru_cache(maxsize=4)
def _gauge(name: str) -> MetricGaugeFloat:
    return _meter.create_gauge_float(name, METRICS[name], "s")


def received(source: Source, count: int = 1) -> None:
    if count:
        _counter("drayage_ingest_received").add(count, {"source": source})


def tested(source: Source) -> None:
    _counter("drayage_ingest_tests").add(1, {"source": source})


def coalesced(route: str, count: int = 1) -> None:
    _counter("drayage_ingest_coalesced").add(count, {"route": route})


def started(route: str, count: int = 1) -> None:
    _counter("drayage_ingest_started").add(count, {"route": route})


def quarantined(source: Source, reason: str) -> None:
    """`reason` is one of `ingest.events.REASONS`, or `unroutable`."""
    _counter("drayage_ingest_quarantined").add(1, {"source": source, "reason": reason})


def oldest(source: Source, age_s: float, holder: str = "") -> None:
    """0 when nothing is held. `holder` is one queue or subscription of the source: the gauge tells the oldest of them all."""
    _ages[source, holder] = age_s
    _gauge("drayage_ingest_oldest_seconds").set(max(age for (of, _), age in _ages.items() if of == source), {"source": source})
