"""Manifests and what they name, on a real Temporal server, between two memory stores."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from embedded.temporal import TemporalServer
from replication.errors import ObjectNotFound
from replication.models import ANY, Attributes, ObjectInfo
from stores.body import Body
from stores.memory import MemoryStore
from tests.conftest import running
from tests.dss import Dss
from tests.lab import Handle, Lab, make_lab
from tests.poll import eventually, within
from tests.replay.scenarios import SHORT_HISTORIES, chain

BY_WAKING = {"poll": "1h", "poll_max": "1h", "deadline": "1d"}
"""No look is due for an hour: whatever is published within a test was woken."""
BY_POLLING = {"poll": "300ms", "poll_max": "300ms", "deadline": "1d"}
JSON_RULE = [{"match": "*.json", "references": "$.parts[*]", "key": "{value}"}]


class Published(MemoryStore):
    """The destination; `order` is the order in which objects appeared, `heads` counts looks at it."""

    def __init__(self) -> None:
        super().__init__("b")
        self.create_bucket("dst")
        self.order: list[str] = []
        self.heads: Counter[str] = Counter()

    async def put(self, bucket: str, key: str, *rest: Any, **more: Any) -> ObjectInfo:
        info = await super().put(bucket, key, *rest, **more)
        if not key.startswith(".drayage/"):
            self.order.append(key)
        return info

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        self.heads[key] += 1
        return await super().head(bucket, key, tags=tags)


@pytest.fixture
def source() -> MemoryStore:
    store = MemoryStore("a")
    store.create_bucket("src")
    return store


@pytest.fixture
def destination() -> Published:
    return Published()


async def put(store: MemoryStore, key: str, content: Any, bucket: str = "src", **attributes: Any) -> ObjectInfo:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await store.put(bucket, key, Body.of(data), Attributes(**attributes), ANY)


async def remove(store: MemoryStore, bucket: str, key: str) -> None:
    await store.delete(bucket, key, (await store.head(bucket, key)).version)


async def waits(lab: Lab, handle: Handle, text: str, phase: str = "waiting") -> None:
    async def shown() -> bool:
        progress = await lab.progress(handle)
        return progress.phase == phase and text in progress.waiting_for

    await eventually(shown, 20)


async def blocked(handle: Handle) -> tuple[str, str]:
    with pytest.raises(WorkflowFailureError) as caught:
        await within(handle.result(), 30)
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    return cause.type or "", cause.message


# --- the four levels of the data store ---------------------------------------------------------------------------------


async def test_a_chain_of_four_levels_follows_its_last_blob_without_any_poll(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    dss = Dss()
    for key, document in dss.documents.items():
        await put(source, key, document)
    lab = make_lab(temporal_client, source, destination, dependencies="dss", dependency_wait=BY_WAKING)
    async with lab.worker():
        top = await lab.start(dss.collection)  # the events of the others got lost
        await eventually(lambda: destination.heads[dss.blob] > 0, 20)
        assert destination.order == []

        await put(source, dss.blob, dss.data)
        await lab.start(dss.blob, signal=True)
        result = await within(top.result(), 30)
    assert result.outcome == "copied"
    assert destination.order == dss.chain


async def test_tombstones_go_at_once_and_unknown_kinds_are_blocked(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    lab = make_lab(temporal_client, source, destination, dependencies="dss", dependency_wait=BY_WAKING)
    dead = Dss().bundle + ".dead"
    await put(source, dead, {"reason": "gone"})
    await put(source, "other/x", b"1")
    async with lab.worker():
        assert (await lab.replicate(dead)).outcome == "copied"
        assert (await blocked(await lab.start("other/x")))[0] == "unknown-kind"
    assert destination.order == [dead]


# --- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_manifest_says_what_it_waits_for_and_is_published_after_the_last(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    parts = [f"p{n:02}" for n in range(10)]
    await put(source, "m.json", {"parts": parts})
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "10 of 10, first missing: p00, p01")
        *early, missing = random.Random(1).sample(parts, 10)
        for part in early:
            await put(source, part, part.encode())
            await lab.start(part, signal=True)
        await waits(lab, manifest, f"1 of 10, first missing: {missing}")
        assert "m.json" not in destination.order
        await put(source, missing, b"last")
        await lab.start(missing, signal=True)
        assert (await within(manifest.result(), 30)).outcome == "copied"
    assert destination.order[-1] == "m.json"
    assert sorted(destination.order[:-1]) == parts


async def test_what_arrives_without_a_word_is_found_by_the_timer(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    await put(source, "m.json", {"parts": ["p"]})
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_POLLING)
    async with lab.worker():
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "1 of 1")
        await put(source, "p", b"data")
        await put(destination, "p", b"data", bucket="dst")  # somebody else put it there
        assert (await within(manifest.result(), 30)).outcome == "copied"


async def test_past_the_deadline_it_is_stalled_and_completes_by_itself(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    parts = [f"p{n:02}" for n in range(30)]
    await put(source, "m.json", {"parts": parts})
    wait = {"poll": "200ms", "poll_max": "400ms", "deadline": "600ms"}
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=wait)
    async with lab.worker():
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "30 of 30, first missing: " + ", ".join(parts[:20]), phase="stalled")
        for part in parts:
            await put(source, part, part.encode())
            await lab.start(part, signal=True)
        assert (await within(manifest.result(), 30)).outcome == "copied"


async def test_a_manifest_that_is_overwritten_while_it_waits_follows_the_newest(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    await put(source, "m.json", {"parts": ["never"]})
    await put(source, "p", b"data")
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "first missing: never")
        newest = await put(source, "m.json", {"parts": ["p"]})
        await lab.start("m.json", signal=True)
        result = await within(manifest.result(), 30)
    assert result.source_version == newest.version.token
    assert destination.order == ["p", "m.json"]


async def test_a_dependency_that_goes_while_others_are_awaited_is_brought_back_first(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    await put(source, "m.json", {"parts": ["early", "late"]})
    await put(source, "early", b"1")
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        await lab.replicate("early")
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "1 of 2, first missing: late")
        await remove(destination, "dst", "early")
        await put(source, "late", b"2")
        await lab.start("late", signal=True)
        assert (await within(manifest.result(), 30)).outcome == "copied"
    assert destination.order == ["early", "late", "early", "m.json"]


async def test_a_replica_of_other_content_is_no_dependency_that_stands(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    await put(source, "m.json", {"parts": ["p"]})
    await put(source, "p", b"the whole of it")
    await put(destination, "p", b"half", bucket="dst")
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        assert (await lab.replicate("m.json")).outcome == "copied"
    assert destination.order == ["p", "p", "m.json"]


async def test_waiting_costs_a_bounded_history_and_loses_no_wake_up(source: MemoryStore, destination: Published) -> None:
    await put(source, "m.json", {"parts": ["p"]})
    wait = {"poll": "50ms", "poll_max": "50ms", "deadline": "1d"}
    with running(TemporalServer(headless=True, dynamic_config=SHORT_HISTORIES)) as server:
        client = await Client.connect(server.address, namespace=server.namespace, data_converter=pydantic_data_converter)
        lab = make_lab(client, source, destination, dependencies=JSON_RULE, dependency_wait=wait)
        async with lab.worker():
            manifest = await lab.start("m.json")

            async def continued() -> bool:
                return len(await chain(client, manifest.id)) >= 3

            await eventually(continued, 60)
            await put(source, "p", b"data")
            await lab.start("p", signal=True)
            assert (await within(client.get_workflow_handle(manifest.id).result(), 30))["outcome"] == "copied"
        for run in await chain(client, manifest.id):
            history = await client.get_workflow_handle(manifest.id, run_id=run).fetch_history()
            assert len(history.events) < 200


async def test_waiting_holds_no_activity(temporal_client: Client, source: MemoryStore, destination: Published) -> None:
    await put(source, "m.json", {"parts": ["p"]})
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        manifest = await lab.start("m.json")
        await waits(lab, manifest, "1 of 1")
        described = await manifest.describe()
        assert described.status == WorkflowExecutionStatus.RUNNING
        assert list(described.raw_description.pending_activities) == []
        await manifest.cancel()
        with pytest.raises(WorkflowFailureError):
            await manifest.result()


# --- many --------------------------------------------------------------------------------------------------------------


async def test_thousands_of_references_are_compared_by_listing_and_published_once(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    parts = [f"data/{n:05}" for n in range(5_000)]
    for part in parts:
        await put(source, part, part.encode())
    for part in parts[:-3]:
        await put(destination, part, part.encode(), bucket="dst")
    await put(source, "m.json", {"parts": random.Random(2).sample(parts, len(parts))})
    destination.order.clear()
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        handle = await lab.start("m.json")
        assert (await within(handle.result(), 60)).outcome == "copied"
    assert destination.order[-1] == "m.json"
    assert sorted(destination.order) == [*parts[-3:], "m.json"]
    assert destination.heads.total() < 200
    history = await handle.fetch_history()
    assert max(len(event.SerializeToString()) for event in history.events) < 256 * 1024


async def test_manifests_that_share_a_dependency_are_all_told(temporal_client: Client, source: MemoryStore, destination: Published) -> None:
    manifests = [f"m{n}.json" for n in range(12)]
    for manifest in manifests:
        await put(source, manifest, {"parts": ["shared"], "name": manifest})
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        handles = [await lab.start(manifest) for manifest in manifests]
        for handle in handles:
            await waits(lab, handle, "1 of 1")
        await put(source, "shared", b"1")
        await lab.start("shared", signal=True)
        results = await within(asyncio.gather(*(handle.result() for handle in handles)), 60)
    assert [result.outcome for result in results] == ["copied"] * len(manifests)
    assert destination.order[0] == "shared"


# --- what can never stand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 20])
async def test_a_cycle_is_blocked_and_named(temporal_client: Client, source: MemoryStore, destination: Published, length: int) -> None:
    ring = [f"m{n}.json" for n in range(length)]
    for number, manifest in enumerate(ring):
        await put(source, manifest, {"parts": [ring[(number + 1) % length]]})
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_POLLING)
    async with lab.worker():
        reason, message = await blocked(await lab.start(ring[0]))
    assert reason == "dependency-cycle"
    assert "m0.json" in message
    assert destination.order == []


@pytest.mark.parametrize(
    ("content", "route", "reason"),
    [
        ({"parts": ["left/out"]}, {"exclude": ["left/**"]}, "unsatisfiable-dependency"),
        (b'{"parts": ["p"', {}, "invalid-manifest"),
        ({"parts": [["nested"]]}, {}, "invalid-manifest"),
        ({"parts": ["../p"]}, {}, "invalid-manifest"),
        ({"parts": ["s3://elsewhere/p"]}, {}, "invalid-manifest"),
    ],
)
async def test_a_manifest_that_cannot_be_followed_is_blocked(
    temporal_client: Client, source: MemoryStore, destination: Published, content: Any, route: dict[str, Any], reason: str
) -> None:
    await put(source, "m.json", content)
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING, **route)
    async with lab.worker():
        assert (await blocked(await lab.start("m.json")))[0] == reason
    with pytest.raises(ObjectNotFound):
        await destination.head("dst", "m.json")


async def test_a_success_marker_waits_for_its_siblings(temporal_client: Client, source: MemoryStore, destination: Published) -> None:
    for key in ("t/_SUCCESS", "t/part-0", "t/part-1", "other/part-9"):
        await put(source, key, key.encode())
    lab = make_lab(temporal_client, source, destination, dependencies="success", dependency_wait=BY_WAKING)
    async with lab.worker():
        assert (await lab.replicate("t/_SUCCESS")).outcome == "copied"
    assert destination.order[-1] == "t/_SUCCESS"
    assert sorted(destination.order[:-1]) == ["t/part-0", "t/part-1"]


async def test_a_table_whose_old_data_was_removed_at_the_source_is_still_replicated(
    temporal_client: Client, source: MemoryStore, destination: Published
) -> None:
    log = "t/_delta_log/"
    await put(source, log + f"{1:020}.json", {"add": {"path": "vacuumed.parquet"}})
    await put(source, log + f"{2:020}.json", {"add": {"path": "kept.parquet"}})
    await put(source, "t/kept.parquet", b"data")
    lab = make_lab(temporal_client, source, destination, dependencies="delta", dependency_wait=BY_WAKING)
    async with lab.worker():
        assert (await lab.replicate(log + f"{2:020}.json")).outcome == "copied"
    assert sorted(destination.order[:2]) == [log + f"{1:020}.json", "t/kept.parquet"]
    assert destination.order[2:] == [log + f"{2:020}.json"]


async def events(client: Client, workflow_id: str) -> Counter[int]:
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    return Counter(event.event_type for event in history.events)


async def test_an_object_nobody_waits_for_is_not_delayed(temporal_client: Client, source: MemoryStore, destination: Published) -> None:
    await put(source, "plain", b"1")
    lab = make_lab(temporal_client, source, destination, dependencies=JSON_RULE, dependency_wait=BY_WAKING)
    async with lab.worker():
        handle = await lab.start("plain")
        assert (await handle.result()).outcome == "copied"
    assert (await events(temporal_client, handle.id))[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED] == 1
