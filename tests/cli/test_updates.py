"""What an operator asks of a workflow that no worker serves ends with a word about it."""

from __future__ import annotations

import uuid

import pytest
from temporalio.client import Client

from cli import updates
from cli.approve import _approve
from replication.deletions import DeletionsInput, Limits
from replication.ids import deletions_id
from workflows.client import TemporalUnreachable
from workflows.start import start_object


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "TAKEN_S", 2.0)


@pytest.mark.parametrize("name", ["pause", "resume"])
async def test_an_object_that_no_worker_answers_for_is_told_and_not_waited_for(temporal_client: Client, name: str) -> None:
    handle = await start_object(temporal_client, f"q-{uuid.uuid4().hex}", f"r-{uuid.uuid4().hex[:12]}", "k")
    with pytest.raises(TemporalUnreachable, match=f"no worker answers for {handle.id}: what was asked may still be done later"):
        await updates.update(handle, name)


async def test_an_approval_that_no_worker_takes_is_told(temporal_client: Client) -> None:
    route, limits = f"r-{uuid.uuid4().hex[:12]}", Limits(max_objects=1, max_percent=1, window_s=60)
    handle = await temporal_client.start_workflow(
        "RouteDeletions", DeletionsInput(route=route, limits=limits), id=deletions_id(route), task_queue=f"q-{uuid.uuid4().hex}"
    )
    with pytest.raises(TemporalUnreachable, match="no worker answers"):
        await _approve(handle)
