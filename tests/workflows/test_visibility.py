"""What an operator sees of an object, and what a history must never hold."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError

from embedded.seaweedfs import SeaweedFS
from replication.ids import object_workflow_id
from replication.models import ANY, Attributes, Progress, ReplicateObjectInput
from replication.settings import parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.lab import FAST_RETRIES, Handle, Lab, make_lab
from tests.ledgers import ledger_url
from tests.poll import eventually
from tests.replay.scenarios import Faulty, on_phase, seed, stores
from tests.stores.keys import ODD_KEYS
from workflows.object import ReplicateObject
from workflows.visibility import PHASES, SEARCH_ATTRIBUTES, object_attributes, object_details, object_summary

MIB = 1 << 20
PAYLOAD_MAX = 256 * 1024


async def found(client: Client, query: str) -> list[str]:
    return [run.id async for run in client.list_workflows(query)]


async def details(handle: Handle) -> str:
    """The Markdown that the Web UI shows."""
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(metadata.current_details)


async def test_an_object_is_found_by_route_key_and_phase(temporal_client: Client) -> None:
    source, destination = stores()
    await seed(source, b"hello", "a key")
    source.unreachable = True
    lab = make_lab(temporal_client, source, destination)
    base = f"DrayageRoute = '{lab.route}' AND DrayageKey = 'a key'"
    async with lab.worker():
        handle = await lab.start("a key")
        await eventually(lambda: on_phase(lab, handle, "waiting"), 20.0)
        assert await eventually(lambda: found(temporal_client, f"{base} AND DrayagePhase = 'waiting'")) == [handle.id]
        text = await details(handle)
        source.unreachable = False
        await handle.signal("check", "cured")
        await handle.result()
        assert await eventually(lambda: found(temporal_client, f"{base} AND DrayagePhase = 'done'")) == [handle.id]

    assert "**waiting**" in text
    assert "waiting for `endpoint-unreachable: no route to the endpoint`" in text


async def test_a_blocked_object_says_why_where_operators_look(temporal_client: Client) -> None:
    source, destination = stores()
    await seed(source, b"hello")
    lab = make_lab(temporal_client, source, destination, buckets=("src", "missing"))
    async with lab.worker():
        handle = await lab.start("k")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        query = f"DrayageRoute = '{lab.route}' AND DrayagePhase = 'blocked' AND ExecutionStatus = 'Failed'"
        assert await eventually(lambda: found(temporal_client, query)) == [handle.id]
        assert "blocked: `bucket-not-found`" in await details(handle)


async def test_a_workflow_started_by_hand_sets_its_own_attributes(temporal_client: Client) -> None:
    source, destination = stores()
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        handle = await lab.start("k", attributes=False)
        await handle.result()
        assert await eventually(lambda: found(temporal_client, f"DrayageRoute = '{lab.route}' AND DrayageKey = 'k'")) == [handle.id]


async def test_the_summary_given_at_the_start_is_shown(temporal_client: Client) -> None:
    source, destination = stores()
    lab = make_lab(temporal_client, source, destination)
    key = "ünï/" * 150
    async with lab.worker():
        handle = await temporal_client.start_workflow(
            ReplicateObject.run,
            ReplicateObjectInput(route=lab.route, key=key),
            id=object_workflow_id(lab.route, key),
            task_queue=lab.queue,
            search_attributes=object_attributes(lab.route, key),
            static_summary=object_summary(lab.route, key),
        )
        await handle.result()
        shown = await (await handle.describe()).static_summary()

    assert shown == object_summary(lab.route, key)
    assert shown.startswith(f"{lab.route}: ünï/")


@pytest.mark.parametrize("key", [*ODD_KEYS.values(), "🚀" * 250, "é" * 512, "\n" * 1024])
def test_a_summary_is_one_printable_line_of_at_most_200_bytes(key: str) -> None:
    summary = object_summary("r" * 63, key)
    assert len(summary.encode()) <= 200
    assert summary.isprintable()
    assert summary.startswith("r" * 63 + ": ")


@pytest.mark.parametrize("key", ["`# owned`", "a\n# heading", "a\r\n- item", "``` js", "[x](http://evil.example)", "<img src=x>", "|a|b|"])
def test_text_of_others_cannot_leave_its_fence(key: str) -> None:
    progress = Progress(phase="waiting", waiting_for=key, last_error=key)
    lines = object_details("r", key, progress).splitlines()
    carrying = [line for line in lines if line.startswith(("- object", "- waiting", "- last error"))]
    assert len(lines) == len(carrying) + 2  # the phase and an empty line
    for line in carrying:
        fenced = line.split("`")[1::2]
        assert line.count("`") == 2 * len(fenced)
        assert not any(mark in "".join(line.split("`")[0::2]) for mark in ("#", "<", "[x]", "http", "|"))


def test_every_phase_and_attribute_is_explained() -> None:
    assert set(SEARCH_ATTRIBUTES) == {"DrayageRoute", "DrayageKey", "DrayagePhase"}
    for phase, meaning in PHASES.items():
        assert meaning in object_details("r", "k", Progress(phase=phase))


# --- what must never be in a history -----------------------------------------------------------------------------------


def payloads(message: Message) -> Iterator[Payload]:
    """Every payload anywhere inside a history event."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            nested = [item for item in value.values() if isinstance(item, Message)]
        else:
            nested = list(value) if field.is_repeated else [value]
        for item in nested:
            yield from payloads(item)


async def raw(client: Client, handle: Handle) -> bytes:
    """The bytes of a history, payloads as they are; fails on a payload of 256 KiB."""
    history = await client.get_workflow_handle(handle.id).fetch_history()
    sizes = [len(payload.data) for event in history.events for payload in payloads(event)]
    assert sizes
    assert max(sizes) < PAYLOAD_MAX
    return b"\n".join(event.SerializeToString() for event in history.events)


@pytest.fixture
async def canary_lab(temporal_client: Client, seaweed: SeaweedFS) -> AsyncIterator[tuple[Lab, MemoryStore, dict[str, str]]]:
    """Memory to SeaweedFS twice, once with its real secret and once with a wrong one; both secrets are marked."""
    token, bucket = uuid.uuid4().hex[:12], f"canary-{uuid.uuid4().hex[:12]}"
    seaweed.create_bucket(bucket)
    environ = {"GOOD": seaweed.secret_key, "BAD": f"canary-{uuid.uuid4().hex}", "KEY": seaweed.access_key}
    weed = {"type": "s3", "endpoint": seaweed.endpoint, "region": seaweed.region, "access_key_id": "env:KEY"}
    places = [("weed", bucket), ("wrong", bucket), ("weed", "no-such-bucket")]
    settings = parse_settings(
        {
            "ledger": ledger_url(),
            "temporal": {"task_queue": f"q-{token}"},
            "stores": {
                "a": {"type": "file", "root": "/stores/a"},
                "weed": {**weed, "secret_access_key": "env:GOOD"},
                "wrong": {**weed, "secret_access_key": "env:BAD"},
            },
            "routes": [
                {
                    "name": f"r{number}-{token}",
                    "source": {"store": "a", "bucket": "src"},
                    "destination": {"store": store, "bucket": place, "prefix": f"{number}/"},
                    "parts": {"part_size": "5MiB", "one_shot_max": "5MiB"},
                }
                for number, (store, place) in enumerate(places)
            ],
            "worker": {"retries": FAST_RETRIES},
        }
    )
    source = Faulty("a", "src")
    built = Stores(settings, environ)
    built.add(source)
    lab = Lab(temporal_client, settings, built)
    async with lab.worker():
        yield lab, source, environ
    await built.close()


async def test_no_secret_and_no_content_is_in_any_history(
    temporal_client: Client, canary_lab: tuple[Lab, MemoryStore, dict[str, str]]
) -> None:
    """R102 for histories: a copy in parts, a small one, a wrong secret, and a bucket that is not there."""
    lab, source, environ = canary_lab
    content = f"canary-content-{uuid.uuid4().hex}".encode()
    attributes = Attributes(metadata={f"m{number}": "x" * 90 for number in range(10)}, tags={"t": "1"})
    for key, data in {"small": content, "large": content + os.urandom(6 * MIB)}.items():
        await source.put("src", key, Body.of(data), attributes, ANY)
    outcomes: list[str] = []
    histories: list[bytes] = []
    for route in lab.settings.routes:
        for key in ("small", "large"):
            handle = await start(lab, route.name, key)
            outcomes.append(await ended(handle))
            histories.append(await raw(temporal_client, handle))

    assert outcomes[:4] == ["copied", "copied", "credentials-refused", "credentials-refused"]
    assert len(histories) == 6
    canaries = [content, environ["GOOD"].encode(), environ["BAD"].encode(), b"Signature=", b"AWS4-HMAC-SHA256", b"Authorization"]
    for history in histories:
        assert [canary for canary in canaries if canary in history] == []
    assert all(b"drayage-copy" in history for history in histories[1:2]), "the search would not see what is there"


async def start(lab: Lab, route: str, key: str) -> Handle:
    return await lab.client.start_workflow(
        ReplicateObject.run, ReplicateObjectInput(route=route, key=key), id=object_workflow_id(route, key), task_queue=lab.queue
    )


async def ended(handle: Handle) -> str:
    with suppress(WorkflowFailureError):
        return (await handle.result()).outcome
    history: dict[str, Any] = json.loads((await handle.fetch_history()).to_json())
    failed = history["events"][-1]["workflowExecutionFailedEventAttributes"]["failure"]
    return str(failed["applicationFailureInfo"]["type"])
