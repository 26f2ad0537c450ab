"""The product's metrics on a real Prometheus endpoint of the SDK's runtime."""

from __future__ import annotations

import asyncio
import urllib.request
import uuid
from collections.abc import Iterator
from functools import partial

import pytest
from temporalio.client import Client
from temporalio.common import MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

import activities.standing
from activities import metrics
from activities.standing import AGES_S, Standing
from ledger.ledger import Ledger
from ledger.rows import PassRecord, Quarantined
from tests.ledgers import ledger_url
from tests.poll import eventually
from workflows.search import count_open
from workflows.start import start_object


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
    gauges = ("drayage_open", "drayage_resting", "drayage_pending", "drayage_last")
    for name in filter(lambda name: name.startswith(gauges), metrics.METRICS):
        metrics.gauge(name, 1.5, route="photos")
        metrics.gauge(name, 2.5, route="photos")
    lines = scraped(endpoint)
    shown = {
        line.split("{")[0].removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for line in lines
    }
    assert shown == set(metrics.METRICS)
    assert value(lines, "drayage_objects_total", 'route="photos"', 'outcome="copied"') == 1
    assert value(lines, "drayage_bytes_total", 'route="photos"') == 7
    assert value(lines, "drayage_failures_total", 'reason="server-fault"', 'retried="true"') == 1
    assert value(lines, "drayage_activity_seconds_count", 'activity="settle_object"') == 1
    assert value(lines, "drayage_housekeeping_total", 'action="removed"') == 3
    assert value(lines, "drayage_open_objects", 'route="photos"') == 2.5


def test_nothing_sent_is_no_sample(endpoint: str) -> None:
    metrics.sent("photos", 0)
    metrics.swept("removed", 0)
    with urllib.request.urlopen(endpoint, timeout=60) as answer:
        assert "drayage_" not in answer.read().decode()


async def test_where_a_route_stands_is_told_and_what_is_over_becomes_zero(endpoint: str, temporal_client: Client) -> None:
    name, ledger = f"r-{uuid.uuid4().hex}", Ledger(ledger_url())
    standing = Standing(ledger, [name], partial(count_open, temporal_client))
    opened = await start_object(temporal_client, f"q-{name}", name, "k")  # a queue without a worker
    await ledger.record(quarantined=[Quarantined(name, key, "refused", "no") for key in ("a", "b")])
    await ledger.begin_pass(PassRecord("p", name, "repair", "running", started_at=1.0))
    try:
        await eventually(lambda: count_open(temporal_client, name, 0.0), 20)
        await standing.tell(name)
        told = await asyncio.to_thread(scraped, endpoint)
        assert value(told, "drayage_open_objects", f'route="{name}"', 'older_than="0s"') == 1
        assert value(told, "drayage_open_objects", f'route="{name}"', 'older_than="1h"') == 0
        assert value(told, "drayage_resting_objects", f'route="{name}"', 'reason="refused"') == 2
        assert "drayage_last_pass" not in "".join(told), "it has not ended"

        await opened.terminate()
        await ledger.record(released=[(name, "a"), (name, "b")])
        await ledger.end_pass("p", state="done", counters={"listed": 7})
        await eventually(lambda: none_open(temporal_client, name), 20)
        await standing.tell(name)
        told = await asyncio.to_thread(scraped, endpoint)
        assert value(told, "drayage_open_objects", f'route="{name}"', 'older_than="0s"') == 0
        assert value(told, "drayage_resting_objects", f'route="{name}"', 'reason="refused"') == 0
        assert value(told, "drayage_last_pass", f'route="{name}"', 'mode="repair"', 'counter="listed"') == 7
        assert value(told, "drayage_last_pass_ended_seconds", f'route="{name}"', 'mode="repair"') > 1e9
    finally:
        await ledger.close()


async def none_open(client: Client, route: str) -> bool:
    return await count_open(client, route, 0.0) == 0


async def test_a_ledger_that_is_away_is_told_once_and_asked_again(
    free_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities.standing, "EVERY_S", 0.01)
    asked = 0

    async def none(route: str, seconds: float) -> int:
        nonlocal asked
        asked += 1
        return 0

    ledger = Ledger(f"postgresql://nobody@127.0.0.1:{free_port}/none")
    telling = asyncio.create_task(Standing(ledger, ["r"], none).run())
    with caplog.at_level("WARNING", logger="drayage.worker"):
        await eventually(lambda: asked >= 3 * len(AGES_S), 30)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await ledger.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the gauges of the routes stand still: ")


def scraped(endpoint: str) -> list[str]:
    with urllib.request.urlopen(endpoint, timeout=60) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith("drayage_")]


def value(lines: list[str], name: str, *labels: str) -> float:
    (line,) = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
    return float(line.rsplit(" ", 1)[1])
