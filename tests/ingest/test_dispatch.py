"""Which routes an event concerns, and how often a workflow hears of it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from ingest.dispatch import Dispatcher, Started, Target, routes_by_bucket, targets_of
from ingest.events import ChangeEvent
from ingest.pace import Pace
from replication.ids import object_workflow_id
from replication.settings import Settings, parse_settings
from tests.ingest.gates import TcpGate
from tests.poll import eventually, within


def route(name: str, store: str, bucket: str, prefix: str = "", **more: Any) -> dict[str, Any]:
    source, destination = {"store": store, "bucket": bucket, "prefix": prefix}, {"store": "disk", "bucket": f"to-{name}"}
    return {"name": name, "source": source, "destination": destination, **more}


@pytest.fixture
def settings() -> Settings:
    stores = {"aws": {"type": "s3"}, "disk": {"type": "file", "root": "/stores"}}
    routes = [
        route("all", "aws", "photos"),
        route("raw", "aws", "photos", "raw/", exclude=["*.tmp"]),
        route("other", "aws", "films"),
        route("local", "disk", "photos"),
    ]
    return parse_settings({"stores": stores, "routes": routes})


@pytest.mark.parametrize(
    ("bucket", "key", "routes"),
    [
        ("photos", "raw/a", ["all", "raw"]),
        ("photos", "raw/a.tmp", ["all"]),
        ("photos", "a", ["all"]),
        ("photos", ".drayage/parts/a", []),
        ("films", "a", ["other"]),
        ("to-all", "a", None),
    ],
)
def test_an_event_concerns_every_s3_route_that_takes_its_key(settings: Settings, bucket: str, key: str, routes: list[str] | None) -> None:
    found = targets_of(ChangeEvent(bucket, key, "created", ""), routes_by_bucket(settings, "s3"))
    assert found == (None if routes is None else tuple(Target(name, key) for name in routes))


async def signals(client: Client, target: Target) -> int:
    history = await client.get_workflow_handle(object_workflow_id(target.route, target.key)).fetch_history()
    return sum(event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED for event in history.events)


async def test_a_target_named_often_is_signalled_once_and_once_more_for_what_came_after(temporal_client: Client) -> None:
    target = Target(f"r-{uuid.uuid4().hex[:12]}", "k")
    dispatcher = Dispatcher(temporal_client, f"q-{uuid.uuid4().hex}", coalesce_s=0.2)
    assert await dispatcher.start([target] * 50) == Started()
    assert await asyncio.gather(*(dispatcher.start([target]) for _ in range(50))) == [Started()] * 50
    assert await signals(temporal_client, target) == 2


async def test_a_hot_key_does_not_delay_another(temporal_client: Client) -> None:
    route = f"r-{uuid.uuid4().hex[:12]}"
    dispatcher = Dispatcher(temporal_client, f"q-{uuid.uuid4().hex}", coalesce_s=3600.0)
    await dispatcher.start([Target(route, "hot")])
    waiting = asyncio.create_task(dispatcher.start([Target(route, "hot")]))
    assert await within(dispatcher.start([Target(route, "cold")]), 20) == Started()
    assert not waiting.done()
    waiting.cancel()
    await dispatcher.close()


async def test_an_event_that_comes_while_a_start_is_sent_gets_another_start(temporal_client: Client) -> None:
    gate = TcpGate(temporal_client.service_client.config.target_host)
    async with gate.listening():
        client = await Client.connect(gate.address, data_converter=pydantic_data_converter)
        target = Target(f"r-{uuid.uuid4().hex[:12]}", "k")
        dispatcher = Dispatcher(client, f"q-{uuid.uuid4().hex}", coalesce_s=0.05)
        gate.shut()
        first = asyncio.create_task(dispatcher.start([target]))
        await eventually(lambda: gate.stopped > 0)
        second = asyncio.create_task(dispatcher.start([target]))
        await asyncio.sleep(0)  # lets it ask
        gate.open()
        assert (await first, await second) == (Started(), Started())
    assert await signals(temporal_client, target) == 2


async def test_a_namespace_that_is_not_there_is_an_outage(temporal_client: Client) -> None:
    config = temporal_client.service_client.config
    elsewhere = await Client.connect(config.target_host, namespace=f"n-{uuid.uuid4().hex}", data_converter=pydantic_data_converter)
    target, dispatcher = Target("r", "k"), Dispatcher(elsewhere, "q")
    assert await dispatcher.start([target]) == Started(unavailable=frozenset({target}))
    assert not dispatcher.available
    await dispatcher.close()


async def test_closing_gives_up_what_is_pending(temporal_client: Client) -> None:
    target = Target(f"r-{uuid.uuid4().hex[:12]}", "k")
    dispatcher = Dispatcher(temporal_client, f"q-{uuid.uuid4().hex}", coalesce_s=3600.0)
    await dispatcher.start([target])
    waiting = asyncio.create_task(dispatcher.start([target]))
    await asyncio.sleep(0)  # lets it ask
    await dispatcher.close()
    assert await within(waiting, 10) == Started(unavailable=frozenset({target}))


async def test_every_target_is_started_though_more_are_asked_for_than_start_at_once(temporal_client: Client) -> None:
    name, dispatcher = f"r-{uuid.uuid4().hex[:12]}", Dispatcher(temporal_client, f"q-{uuid.uuid4().hex}")
    targets = [Target(name, f"k{number}") for number in range(80)]
    assert await dispatcher.start(targets) == Started()
    handles = [temporal_client.get_workflow_handle(object_workflow_id(name, target.key)) for target in targets]
    assert len({(await handle.describe()).run_id for handle in handles}) == 80


async def test_what_the_server_refuses_is_no_outage(temporal_client: Client) -> None:
    target = Target(f"r-{uuid.uuid4().hex[:12]}", "k")
    refusing = Dispatcher(temporal_client, "q" * 2000)  # longer than Temporal lets an identifier be
    assert await refusing.start([target]) == Started(refused=frozenset({target}))
    assert await within(refusing.healthy(), 10)


def test_pauses_stay_below_two_requests_a_second_and_are_bounded() -> None:
    pauses = [Pace().pause_s(failures) for failures in range(1, 2000)]
    assert pauses[:5] == [1, 2, 4, 8, 15]
    assert max(pauses) == 15
