"""From a change in a GCS bucket, through Pub/Sub, to the replica on S3; and what a subscription may hold besides."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.fake_gcs import FakeGcs, Notifications
from embedded.pubsub import PubSubEmulator
from embedded.seaweedfs import SeaweedFS
from embedded.temporal import TemporalServer
from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.pubsub import PubSubIngestor
from replication.ids import object_workflow_id
from replication.ingest_settings import PubSubSettings
from replication.settings import Settings, parse_settings
from stores.registry import Stores
from tests.conftest import running
from tests.e2e.sides import GcsSide, Properties, S3Side
from tests.ingest.conftest import FAST
from tests.ingest.test_converge import Driver, compared
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url
from tests.poll import eventually, within
from tests.proxy import FaultProxy


@pytest.fixture(scope="session")
def topic(pubsub: PubSubEmulator) -> str:
    return pubsub.create_topic(f"t-{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def notifying_gcs(pubsub: PubSubEmulator, topic: str) -> Iterator[FakeGcs]:
    told = Notifications(pubsub.host, pubsub.project, topic.rpartition("/")[2])
    with running(FakeGcs(notifications=told)) as server:
        yield server


@pytest.fixture
def publisher(pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.host)
    credentials: Any = AnonymousCredentials
    client: Any = pubsub_v1.PublisherClient(credentials=credentials())
    yield client
    client.stop()
    client.transport.close()


@dataclass
class Rig:
    client: Client
    source: GcsSide
    replica: S3Side
    subscription: str
    settings: Settings
    stores: Stores

    @property
    def route(self) -> str:
        return self.settings.routes[0].name

    def worker(self) -> contextlib.AbstractAsyncContextManager[None]:
        return Lab(self.client, self.settings, self.stores).worker()

    def ingestor(self, subscription: str | None = None, client: Client | None = None) -> PubSubIngestor:
        queue = self.settings.temporal.control_queue
        dispatcher = Dispatcher(client or self.client, queue, start_timeout=timedelta(seconds=2), pace=FAST)
        wanted = PubSubSettings(subscription=subscription or self.subscription)
        return PubSubIngestor(wanted, dispatcher, routes_by_bucket(self.settings, "gcs"), FAST)

    def holds(self, key: str, data: bytes) -> bool:
        seen = self.replica.see(key)
        return seen is not None and seen.size_bytes == len(data) and self.source.see(key) is not None and seen.sha256 == sha(data)


def sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.fixture
async def rig(
    temporal_client: Client, pubsub: PubSubEmulator, topic: str, notifying_gcs: FakeGcs, seaweed: SeaweedFS, publisher: Any
) -> AsyncIterator[Rig]:
    token = uuid.uuid4().hex[:12]
    subscription = pubsub.create_subscription(f"s-{token}", topic)
    source, replica = GcsSide("source", notifying_gcs), S3Side("replica", seaweed)
    document = {
        "ledger": ledger_url(),
        "temporal": {"task_queue": f"q-{token}"},
        "stores": {"source": source.settings(), "replica": replica.settings()},
        "routes": [
            {
                "name": f"r-{token}",
                "source": {"store": "source", "bucket": source.bucket},
                "destination": {"store": "replica", "bucket": replica.bucket},
                "deletes": "mirror",
            }
        ],
        "worker": {"retries": FAST_RETRIES, "control_slots": 8, "transfer_slots": 2, "streams": 2},
    }
    settings = parse_settings(document)
    stores = Stores(settings, replica.environ())
    yield Rig(temporal_client, source, replica, subscription, settings, stores)
    await stores.close()
    source.close()
    replica.close()


@contextlib.asynccontextmanager
async def following(*ingestors: PubSubIngestor) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(ingestor.run(stop)) for ingestor in ingestors]
    try:
        yield
    finally:
        stop.set()
        await within(asyncio.gather(*tasks), 30)
        for ingestor in ingestors:
            await ingestor.dispatcher.close()


async def test_creates_overwrites_metadata_and_deletes_reach_the_replica_though_another_subscription_is_gone(rig: Rig) -> None:
    ingestor = rig.ingestor()
    async with rig.worker(), following(ingestor, rig.ingestor("projects/embedded/subscriptions/gone")):
        await asyncio.to_thread(rig.source.put, "a+b %41", b"one")
        await eventually(lambda: rig.holds("a+b %41", b"one"), 30, interval_s=0.1)
        await asyncio.to_thread(rig.source.put, "a+b %41", b"two, over it", Properties(metadata={"colour": "red"}))
        await eventually(lambda: rig.holds("a+b %41", b"two, over it"), 30, interval_s=0.1)
        await asyncio.to_thread(rig.source.delete, "a+b %41")
        await eventually(lambda: rig.replica.see("a+b %41") is None, 30, interval_s=0.1)
    assert ingestor.counts["acknowledged"] >= 3


async def test_the_deletion_of_an_old_generation_deletes_nothing(rig: Rig, publisher: Any, topic: str) -> None:
    """An overwrite tells of the old generation's end, and may tell that first, last, or again."""
    await asyncio.to_thread(rig.source.put, "k", b"live")
    ingestor = rig.ingestor()
    gone = {"bucketId": rig.source.bucket, "objectId": "k", "eventType": "OBJECT_DELETE", "overwrittenByGeneration": "2"}
    async with rig.worker(), following(ingestor):
        await eventually(lambda: rig.holds("k", b"live"), 30, interval_s=0.1)
        before = rig.replica.see("k")
        received = ingestor.counts["acknowledged"]
        for _ in range(3):
            publisher.publish(topic, b"", **gone).result(10)
        await eventually(lambda: ingestor.counts["acknowledged"] >= received + 3, 30)
        await rig.client.get_workflow_handle(object_workflow_id(rig.route, "k")).result()
    assert rig.replica.see("k") == before


async def test_poison_goes_to_the_dead_letters_and_spares_the_rest(rig: Rig, pubsub: PubSubEmulator, publisher: Any) -> None:
    token = uuid.uuid4().hex[:12]
    dead_topic, topic = pubsub.create_topic(f"dead-{token}"), pubsub.create_topic(f"live-{token}")
    dead = pubsub.create_subscription(f"dead-{token}", dead_topic)
    policy = {"deadLetterTopic": dead_topic, "maxDeliveryAttempts": 5}
    subscription = pubsub.create_subscription(f"live-{token}", topic, deadLetterPolicy=policy)
    await asyncio.to_thread(rig.source.put, "k", b"good")
    good = {"bucketId": rig.source.bucket, "objectId": "k", "eventType": "OBJECT_FINALIZE"}
    reader = pubsub_v1.SubscriberClient(credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    ingestor = rig.ingestor(subscription)
    async with rig.worker(), following(ingestor):
        publisher.publish(topic, b"junk").result(10)
        publisher.publish(topic, b"", **good).result(10)
        await eventually(lambda: rig.holds("k", b"good"), 30, interval_s=0.1)

        def dropped() -> bool:
            return bool(reader.pull(subscription=dead, max_messages=1, timeout=5).received_messages)

        await eventually(lambda: asyncio.to_thread(dropped), 60, interval_s=0.1)
    reader.close()
    assert ingestor.counts["quarantined not-json"] >= 5


async def test_poison_without_dead_letters_is_dropped_with_an_excerpt_in_the_log(
    rig: Rig, publisher: Any, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    ingestor = rig.ingestor()
    async with following(ingestor):
        publisher.publish(topic, b"junk with a name").result(10)
        await eventually(lambda: ingestor.counts["quarantined not-json"] == 1, 30)
    assert "junk with a name" in caplog.text


async def test_nothing_is_lost_while_temporal_is_away(rig: Rig, publisher: Any, topic: str) -> None:
    with TemporalServer(headless=True) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        server.kill()
        ingestor = rig.ingestor(client=client)
        told = {"bucketId": rig.source.bucket, "objectId": "late", "eventType": "OBJECT_FINALIZE"}
        async with following(ingestor):
            publisher.publish(topic, b"", **told).result(10)
            await eventually(lambda: not ingestor.dispatcher.available, 30)
            assert ingestor.counts["acknowledged"] == 0
            await asyncio.to_thread(server.restart)
            await eventually(lambda: ingestor.counts["acknowledged"] == 1, 60)
            handle = client.get_workflow_handle(object_workflow_id(rig.route, "late"))
            assert (await handle.describe()).task_queue == rig.settings.temporal.control_queue


async def test_a_random_history_ends_equal_object_by_object(rig: Rig) -> None:
    async with rig.worker(), following(rig.ingestor()):
        await asyncio.to_thread(Driver(rig.source, 11, keys=40).run, 500)

        async def equal() -> bool:
            return not await asyncio.to_thread(compared, rig.source, rig.replica)

        await eventually(equal, 120, interval_s=1.0)
    assert len(rig.source.keys()) > 10


async def test_a_patch_of_metadata_is_told_by_its_event_and_moves_no_bytes(rig: Rig, notifying_gcs: FakeGcs, seaweed: SeaweedFS) -> None:
    """R84 on GCS. fake-gcs-server does not count metagenerations, by which a pass would see the patch; the event tells of it here."""
    async with contextlib.AsyncExitStack() as last:
        source, replica = FaultProxy(notifying_gcs.endpoint), FaultProxy(seaweed.endpoint)
        async with source, replica:
            made = through(rig, source=source.endpoint, replica=replica.endpoint)
            last.push_async_callback(made.stores.close)
            async with made.worker(), following(made.ingestor()):
                await asyncio.to_thread(rig.source.put, "k", b"labelled later", Properties(metadata={"colour": "red"}))
                await eventually(lambda: rig.holds("k", b"labelled later"), 30, interval_s=0.1)
                await made.client.get_workflow_handle(object_workflow_id(made.route, "k")).result()
                source.log.clear()
                replica.log.clear()
                await asyncio.to_thread(rig.source.patch, "k", {"colour": "blue"})
                await eventually(lambda: asyncio.to_thread(is_coloured, rig.replica, "blue"), 30, interval_s=0.1)
                result = await made.client.get_workflow_handle(object_workflow_id(made.route, "k")).result()
    assert (result["outcome"], result["bytes_copied"]) == ("updated", 0)
    assert source.requests("GET", "alt=media") == [], "nothing was read"
    assert [(seen.method, seen.request_bytes) for seen in replica.requests("PUT|POST")] == [("PUT", 0)]


def through(rig: Rig, **endpoints: str) -> Rig:
    """The same rig, with other endpoints of its stores."""
    document = rig.settings.model_dump(mode="json", exclude_unset=True)
    for name, endpoint in endpoints.items():
        document["stores"][name]["endpoint"] = endpoint
    settings = parse_settings(document)
    return replace(rig, settings=settings, stores=Stores(settings, rig.replica.environ()))


def is_coloured(side: S3Side, colour: str) -> bool:
    seen = side.see("k")
    return seen is not None and seen.properties.metadata.get("colour") == colour
