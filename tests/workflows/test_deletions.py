"""Deletions of a route on a real Temporal server: the hold of each, and the stop of many."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError

from activities import deletions
from activities.deletions import UNCOUNTED, Permit, Permits
from replication.deletions import DeletionsProgress
from replication.errors import ObjectNotFound, RouteUnknown
from replication.ids import deletions_id
from replication.models import ANY, Attributes
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import Handle, Lab, make_lab
from tests.poll import eventually, within


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    return source, destination


async def replicated(lab: Lab, source: MemoryStore, count: int) -> list[str]:
    keys = [f"k{number:02}" for number in range(count)]
    for key in keys:
        await source.put("src", key, Body.of(key.encode()), Attributes(), ANY)
    results = await asyncio.gather(*(lab.replicate(key) for key in keys))
    assert {result.outcome for result in results} == {"copied"}
    return keys


async def remove(source: MemoryStore, key: str) -> None:
    await source.delete("src", key, (await source.head("src", key)).version)


async def exists(store: MemoryStore, key: str) -> bool:
    try:
        await store.head("dst", key)
    except ObjectNotFound:
        return False
    return True


async def phase(lab: Lab, handle: Handle, name: str) -> None:
    async def reached() -> bool:
        return await lab.phase(handle) == name

    await eventually(reached, 20)


def guard(lab: Lab) -> WorkflowHandle[Any, Any]:
    return lab.client.get_workflow_handle(deletions_id(lab.route))


async def test_a_mass_deletion_stops_and_goes_on_when_it_is_approved(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    lab = make_lab(temporal_client, *stores, deletes={"mode": "mirror", "max_percent": 50})
    async with lab.worker():
        keys = await replicated(lab, stores[0], 24)
        for key in keys[:20]:
            await remove(stores[0], key)
        handles = [await lab.start(key) for key in keys[:20]]

        async def stopped() -> DeletionsProgress | None:
            try:
                held: DeletionsProgress = await guard(lab).query("progress", result_type=DeletionsProgress)
            except RPCError:  # nothing asked yet
                return None
            return held if held.hold and held.hold.count >= 8 else None

        held = await eventually(stopped, 60)
        assert held.hold is not None
        assert held.hold.reason.startswith("more than 50 % of 24")
        assert held.granted == 12

        async def open_ones() -> list[Handle] | None:
            found = [handle for handle in handles if (await handle.describe()).status == WorkflowExecutionStatus.RUNNING]
            return found if len(found) == 8 else None

        waiting = await eventually(open_ones, 20)
        for handle in waiting:
            await phase(lab, handle, "held")
        assert sum([await exists(stores[1], key) for key in keys]) == 12

        await guard(lab).execute_update("approve")
        for handle in waiting:
            await handle.signal("check")
        results = await asyncio.gather(*(handle.result() for handle in handles))
    assert {result.outcome for result in results} == {"deleted"}
    assert [key for key in keys if await exists(stores[1], key)] == keys[20:]


async def test_single_deletions_need_nobody(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores, deletes="mirror")
    async with lab.worker():
        (key,) = await replicated(lab, stores[0], 1)
        await remove(stores[0], key)
        assert (await lab.replicate(key)).outcome == "deleted"
    assert not await exists(stores[1], key)


async def test_a_deletion_waits_for_its_hold_and_a_return_cancels_it(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    lab = make_lab(temporal_client, *stores, deletes={"mode": "mirror", "hold": "1h"})
    async with lab.worker():
        (key,) = await replicated(lab, stores[0], 1)
        await remove(stores[0], key)
        handle = await lab.start(key)
        await phase(lab, handle, "waiting")
        assert "deletion-hold" in (await lab.progress(handle)).waiting_for
        await stores[0].put("src", key, Body.of(key.encode()), Attributes(), ANY)
        await handle.signal("check")
        result = await handle.result()
    assert result.outcome in ("in_sync", "copied", "updated")
    assert await exists(stores[1], key)
    with pytest.raises(RPCError):
        await guard(lab).describe()


async def test_a_deletion_happens_when_its_hold_has_passed(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores, deletes={"mode": "mirror", "hold": "500ms"})
    async with lab.worker():
        (key,) = await replicated(lab, stores[0], 1)
        await remove(stores[0], key)
        assert (await within(lab.replicate(key), 30)).outcome == "deleted"
    assert not await exists(stores[1], key)


async def test_a_permit_that_nobody_answers_is_refused_and_leaves_nothing_behind(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(temporal_client, *stores)
    monkeypatch.setattr(deletions, "ANSWER", timedelta(seconds=0.5))
    lost: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))
    try:
        assert await Permits(temporal_client, lab.settings, lab.stores).ask(lab.route, "k") == Permit(False, UNCOUNTED)
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
        await guard(lab).terminate()
    assert not lost, "errors that nobody looked at"


async def test_whoever_asks_for_a_permit_hears_what_went_wrong(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    permits = Permits(temporal_client, lab.settings, lab.stores)
    asked = [permits.ask("no-such-route", key) for key in ("a", "b")]
    answers = await within(asyncio.gather(*asked, return_exceptions=True), 10)
    assert [type(answer) for answer in answers] == [RouteUnknown, RouteUnknown]
