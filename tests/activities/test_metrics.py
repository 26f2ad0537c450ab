"""The product's metrics on a real Prometheus endpoint of the SDK's runtime."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from temporalio.common import MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from activities import metrics


@pytest.fixture
def endpoint(free_port: int) -> Iterator[str]:
    address = f"127.0.0.1:{free_port}"
    runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=address, counters_total_suffix=True)))
    metrics.bind(runtime.metric_meter)
    yield f"http://{address}/metrics"
    metrics.bind(MetricMeter.noop)


def test_every_metric_appears_under_its_name_with_its_labels(endpoint: str) -> None:
    metrics.settled("photos", "copied", 7)
    metrics.failure("photos", "server-fault", retried=True)
    metrics.seconds("settle_object", 0.5)
    metrics.followed("photos", 0.2)
    metrics.swept("removed", 3)
    with urllib.request.urlopen(endpoint, timeout=60) as answer:
        text = answer.read().decode()

    lines = [line for line in text.splitlines() if line.startswith("drayage_")]
    shown = {
        line.split("{")[0].removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for line in lines
    }
    assert shown == set(metrics.METRICS)
    assert value(lines, "drayage_objects_total", 'route="photos"', 'outcome="copied"') == 1
    assert value(lines, "drayage_bytes_total", 'route="photos"') == 7
    assert value(lines, "drayage_failures_total", 'reason="server-fault"', 'retried="true"') == 1
    assert value(lines, "drayage_activity_seconds_count", 'activity="settle_object"') == 1
    assert value(lines, "drayage_housekeeping_total", 'action="removed"') == 3


def test_nothing_sent_is_no_sample(endpoint: str) -> None:
    metrics.sent("photos", 0)
    metrics.swept("removed", 0)
    with urllib.request.urlopen(endpoint, timeout=60) as answer:
        assert "drayage_" not in answer.read().decode()


def value(lines: list[str], name: str, *labels: str) -> float:
    (line,) = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
    return float(line.rsplit(" ", 1)[1])
