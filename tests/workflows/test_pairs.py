"""Routes that lead back and forth, on stores that cannot fence their writes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from replication.limits import Capabilities
from replication.models import ANY, Attributes
from replication.settings import parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.lab import FAST_RETRIES, Lab
from workflows.start import start_object


class Unfenced(MemoryStore):
    """Tells that it ignores conditions, as some endpoints do."""

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        return replace(await super().probe(bucket, writable=writable), conditional_writes=False)


async def test_a_pair_is_refused_where_a_destination_has_no_conditional_writes(temporal_client: Client, tmp_path: Path) -> None:
    ends = [{"store": name, "bucket": "shared"} for name in ("a", "b")]
    document = {
        "temporal": {"task_queue": f"q-{uuid.uuid4().hex}"},
        "ledger": f"sqlite:///{tmp_path}/ledger.db",
        "stores": {name: {"type": "file", "root": f"/stores/{name}"} for name in ("a", "b")},
        "routes": [
            {"name": "there", "source": ends[0], "destination": ends[1]},
            {"name": "back", "source": ends[1], "destination": ends[0]},
        ],
        "worker": {"retries": FAST_RETRIES},
    }
    settings = parse_settings(document)
    fenced, unfenced = MemoryStore("a"), Unfenced("b")
    stores = Stores(settings, {})
    for store in (fenced, unfenced):
        store.create_bucket("shared")
        stores.add(store)
        await store.put("shared", f"of-{store.name}", Body.of(b"data"), Attributes(), ANY)
    lab = Lab(temporal_client, settings, stores)
    async with lab.worker():
        with pytest.raises(WorkflowFailureError) as refused:
            await (await start_object(temporal_client, lab.queue, "there", "of-a")).result()
        assert (await (await start_object(temporal_client, lab.queue, "back", "of-b")).result()).outcome == "copied"
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "not-supported"
    assert "no conditional writes" in refused.value.cause.message
