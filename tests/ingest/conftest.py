"""A bucket and a queue on moto, a bucket on SeaweedFS, one route between them, a worker in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest
from temporalio.client import Client

from embedded.moto import MotoServer
from embedded.process import clean_environment
from embedded.seaweedfs import SeaweedFS
from embedded.temporal import TemporalServer
from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.held import Bounds
from ingest.operator_messages import replicas_of
from ingest.pace import Pace
from ingest.sqs import SqsIngestor
from replication.settings import parse_settings
from stores.registry import Stores
from tests import warm
from tests.e2e.sides import S3Side
from tests.ingest.test_events import s3_body, s3_record
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url
from tests.poll import eventually, within
from tests.proxy import FaultProxy

ROOT = Path(__file__).resolve().parents[2]
FAST = Pace(wait_s=1, visibility_s=30, first_pause_s=0.6, longest_pause_s=0.6)


@dataclass
class Queue:
    """An SQS queue as its owner sees it."""

    sqs: Any
    url: str

    @property
    def arn(self) -> str:
        arn: str = self._attributes()["QueueArn"]
        return arn

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def send_many(self, bodies: Sequence[str]) -> None:
        """moto needs time for each message it hands out that grows with the queue: 100 messages take half a second, 1,000 take
        45."""
        for at in range(0, len(bodies), 10):
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[at : at + 10])]
            assert not self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def left(self) -> int:
        """Messages that are not deleted, received or not. The server counts one kind after the other, and a message that becomes
        visible again in between is in neither."""
        return max(self._count(), self._count())

    def _count(self) -> int:
        found = self._attributes()
        return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])

    def bodies(self) -> set[str]:
        """What can be received now; each message is deleted."""
        found: set[str] = set()
        while messages := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.add(message["Body"])
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def _attributes(self) -> dict[str, str]:
        found: dict[str, str] = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return found


@dataclass
class Rig:
    """What one test works with. `document` is the configuration of the worker and of the ingestor."""

    folder: Path
    client: Client
    source: S3Side
    replica: S3Side
    queue: Queue
    document: dict[str, Any]
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        self.environ = {**self.source.environ(), **self.replica.environ()}
        self.settings = parse_settings(self.document)
        self.stores = Stores(self.settings, self.environ)

    @property
    def route(self) -> str:
        return self.settings.routes[0].name

    def worker(self) -> contextlib.AbstractAsyncContextManager[None]:
        return Lab(self.client, self.settings, self.stores).worker()

    def ingestor(
        self, pace: Pace = FAST, *, client: Client | None = None, coalesce_s: float = 0.05, bounds: Bounds | None = None
    ) -> SqsIngestor:
        queue = self.settings.temporal.control_queue
        dispatcher = Dispatcher(client or self.client, queue, start_timeout=timedelta(seconds=5), coalesce_s=coalesce_s, pace=pace)
        routes, replicas = routes_by_bucket(self.settings, "s3"), replicas_of(self.settings)
        return SqsIngestor(
            self.settings.ingest.sqs[-1], self.environ, dispatcher, routes, replicas, pace, bounds=bounds or Bounds(), name=self.queue.url
        )

    @contextlib.asynccontextmanager
    async def ingest(self, ingestor: SqsIngestor) -> AsyncIterator[None]:
        """Runs `ingestor` in this process, from its start to its orderly end."""
        stop = asyncio.Event()
        task = asyncio.create_task(ingestor.run(stop))
        try:
            yield
        finally:
            stop.set()
            await within(task, 20)
            await ingestor.dispatcher.close()

    @contextlib.asynccontextmanager
    async def through(self, *, sqs: str | None = None, temporal: str | None = None) -> AsyncIterator[tuple[Rig, FaultProxy, FaultProxy]]:
        """The same rig with a proxy in front of either store, source first, and other addresses of SQS and Temporal."""
        document = json.loads(json.dumps(self.document))
        stores, queue = document["stores"], document["ingest"]["sqs"][-1]
        async with contextlib.AsyncExitStack() as last:
            async with FaultProxy(stores["source"]["endpoint"]) as source, FaultProxy(stores["replica"]["endpoint"]) as replica:
                stores["source"]["endpoint"], stores["replica"]["endpoint"] = source.endpoint, replica.endpoint
                queue["endpoint"] = sqs or queue["endpoint"]
                document["ingest"]["sqs"] = [queue]
                document["temporal"]["address"] = temporal or document["temporal"]["address"]
                made = replace(self, document=document)
                # After the proxies: one whose client just went away would be stopped in the middle of closing.
                last.push_async_callback(made.stores.close)
                yield made, source, replica

    def notify(self) -> None:
        """Lets the source's bucket send its events to the queue."""
        configured = {"QueueConfigurations": [{"QueueArn": self.queue.arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]}
        self.source.client.put_bucket_notification_configuration(Bucket=self.source.bucket, NotificationConfiguration=configured)

    def event(self, key: str, name: str = "ObjectCreated:Put") -> str:
        """A body of one event of the source's bucket."""
        return s3_body(s3_record(quote_plus(key), name, bucket=self.source.bucket))

    def launch(self) -> subprocess.Popen[bytes]:
        """`python -m ingest` in a process of its own."""
        path = self.folder / "drayage.yaml"
        path.write_text(json.dumps(self.document))
        command = ["-m", "ingest", "--config", str(path)]
        with (self.folder / "ingest.log").open("wb") as log:
            return warm.start(command, cwd=ROOT, env={**clean_environment(), **self.environ}, stderr=log)

    @contextlib.asynccontextmanager
    async def ingesting(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        """The process from its readiness to its orderly end."""
        child = self.launch()
        try:
            await eventually(lambda: "ingest is ready" in self.log(), 30)
            yield child
            child.send_signal(signal.SIGTERM)
            await eventually(lambda: child.poll() is not None, 10)
            assert child.returncode == 0, self.log()
        finally:
            if child.poll() is None:
                child.kill()
            child.wait(10)

    async def replicated(self, key: str, data: bytes, timeout_s: float = 20) -> None:
        await eventually(lambda: self.is_replicated(key, data), timeout_s, interval_s=0.1)

    def log(self) -> str:
        return (self.folder / "ingest.log").read_text()

    def is_replicated(self, key: str, data: bytes) -> bool:
        try:
            return bool(self.replica.client.get_object(Bucket=self.replica.bucket, Key=key)["Body"].read() == data)
        except self.replica.client.exceptions.NoSuchKey:
            return False


@pytest.fixture
def sqs(moto_s3: MotoServer) -> Iterator[Any]:
    keys = {"aws_access_key_id": moto_s3.access_key, "aws_secret_access_key": moto_s3.secret_key}
    client = boto3.client("sqs", endpoint_url=moto_s3.endpoint, region_name=moto_s3.region, **keys)  # type: ignore[call-overload]  # no stubs of SQS
    yield client
    client.close()


def make_queue(sqs: Any, **attributes: str) -> Queue:
    return Queue(sqs, sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex}", Attributes=attributes)["QueueUrl"])


@pytest.fixture
async def rig(
    tmp_path: Path, temporal_server: TemporalServer, temporal_client: Client, moto_s3: MotoServer, seaweed: SeaweedFS, sqs: Any
) -> AsyncIterator[Rig]:
    source, replica, queue, token = S3Side("source", moto_s3), S3Side("replica", seaweed), make_queue(sqs), uuid.uuid4().hex[:12]
    credentials = {name: value for name, value in source.settings().items() if name not in ("type", "region")}
    document = {
        "ledger": ledger_url(),
        "temporal": {"address": temporal_server.address, "task_queue": f"q-{token}"},
        "stores": {"source": source.settings(), "replica": replica.settings()},
        "routes": [
            {
                "name": f"r-{token}",
                "source": {"store": "source", "bucket": source.bucket},
                "destination": {"store": "replica", "bucket": replica.bucket},
                "deletes": "mirror",
                "exclude": ["*.tmp"],
            }
        ],
        "ingest": {"sqs": [{"queue_url": queue.url + "-gone", **credentials}, {"queue_url": queue.url, **credentials}]},
        "worker": {"retries": FAST_RETRIES, "control_slots": 8, "transfer_slots": 2, "streams": 2},
    }
    made = Rig(tmp_path, temporal_client, source, replica, queue, document)
    yield made
    await made.stores.close()
    source.close()
    replica.close()
