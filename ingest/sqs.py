"""S3 events, and operators' requests, from an SQS queue.

A message is acknowledged once every record of it was started, or asks for nothing; never before. Many messages are held at
once, so that a key which waits for its turn does not slow down the others; there are bounds on messages and on objects under
way. While Temporal is away nothing more is received, so that an outage does not spend the receives that a redrive policy
counts, and what is held stays invisible to others.

A poisoned message has a record that cannot be read. Its other records are started all the same. It is left to
the queue's redrive policy; where the queue has none, it is deleted when it is received for the fifth time, with its
reasons and an excerpt in the log. A queue whose policy cannot be read counts as one that has it.

Delivery is at least once, in any order, and a receipt may be stale: all of that is harmless, because an event is a hint.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from ingest import metrics
from ingest.dispatch import Dispatcher, RoutesByBucket, Target
from ingest.health import Report, silent
from ingest.operator_messages import Replicas
from ingest.pace import Pace, pause
from ingest.sqs_messages import Message, read_message
from replication.ingest_settings import SqsSettings
from replication.secrets import resolve_secret

log = logging.getLogger("drayage.ingest")

T = TypeVar("T")

BATCH = 10
"""The most that SQS hands out, or takes, in one request."""
RECEIVES_AT_ONCE = 4
MAX_HELD = 5_000
"""Messages held at once. SQS lets 120,000 be in flight; each takes a few KiB here."""
MAX_TARGETS = 1_000
"""Objects under way at once."""
POISON_RECEIVES = 5
EXCERPT_CHARS = 300
ACK_DELAY_S = 0.05
"""How long a finished message waits for others to be acknowledged with."""
MEASURE_S = 5.0
QUIET = frozenset({"no-records", "test-event"})


@dataclass
class SqsIngestor:
    """One queue. `counts` tells what became of the messages since the start; `report` hears whether the queue answers."""

    settings: SqsSettings
    environ: Mapping[str, str]
    dispatcher: Dispatcher
    routes: RoutesByBucket
    replicas: Replicas = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    report: Report = silent
    name: str = "ingest.sqs"
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raises `SettingsError` for a secret that is not there."""
        self._credentials = client_credentials(self.settings, self.environ, self.name)
        self._held: dict[str, Message] = {}
        self._since: dict[str, float] = {}
        self._targets: Counter[Target] = Counter()
        self._finished: list[Message] = []
        self._room = asyncio.Event()
        self._more = asyncio.Event()

    @property
    def held(self) -> int:
        """Messages received and not acknowledged."""
        return len(self._held)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. Whatever fails is logged and tried again, so that no queue stops another."""
        failures = 0
        while not stop.is_set():
            began = time.monotonic()
            try:
                async with self.client() as sqs:
                    await self._follow(sqs, stop)
            except (ClientError, BotoCoreError, OSError) as error:
                log.error("queue %s: %s", self.settings.queue_url, error)
                self.report(False, str(error))
            except Exception as error:
                log.exception("queue %s: a defect", self.settings.queue_url)
                self.report(False, repr(error))
            failures = 1 if time.monotonic() - began > self.pace.longest_pause_s else failures + 1
            await pause(stop, self.pace.pause_s(failures))
        log.info("queue %s: stopped; %s", self.settings.queue_url, dict(self.counts))

    def client(self) -> Any:
        """A context manager that gives an SQS client."""
        config = AioConfig(
            connect_timeout=5,
            read_timeout=self.pace.wait_s + 10,
            retries={"max_attempts": 2, "mode": "standard"},
            max_pool_connections=RECEIVES_AT_ONCE + 4,
        )
        session: Any = aioboto3.Session()
        return session.client(
            "sqs", region_name=self.settings.region, endpoint_url=self.settings.endpoint, config=config, **self._credentials
        )

    async def _follow(self, sqs: Any, stop: asyncio.Event) -> None:
        """Receives, starts and acknowledges until `stop` is set; the first failure ends all and is raised as it is.

        What is held then comes back when its visibility ends.
        """
        self._room.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(self._acknowledge(sqs)),
                    tasks.create_task(self._keep_invisible(sqs)),
                    tasks.create_task(self._measure()),
                ]
                handlers: set[asyncio.Task[None]] = set()
                receivers = [tasks.create_task(self._receive(sqs, stop, tasks, handlers)) for _ in range(RECEIVES_AT_ONCE)]
                await asyncio.gather(*receivers)
                await asyncio.gather(*handlers)
                await self._flush(sqs)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._held.clear()
            self._since.clear()
            self._targets.clear()
            self._finished.clear()

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def _receive(self, sqs: Any, stop: asyncio.Event, tasks: asyncio.TaskGroup, handlers: set[asyncio.Task[None]]) -> None:
        while not stop.is_set():
            if not self.dispatcher.available and not await self.dispatcher.wait_available(stop):
                return
            if not await _unless_stopped(self._room.wait(), stop):
                return
            for raw in await self._batch(sqs, stop):
                message = read_message(raw, self.routes, self.replicas)
                self._hold(message)
                handler = tasks.create_task(self._handle(sqs, message, stop))
                handlers.add(handler)
                handler.add_done_callback(handlers.discard)

    async def _batch(self, sqs: Any, stop: asyncio.Event) -> list[dict[str, Any]]:
        request = sqs.receive_message(
            QueueUrl=self.settings.queue_url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=self.pace.wait_s,
            VisibilityTimeout=self.pace.visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        answer = await _unless_stopped(request, stop)
        self.report(True, "")
        found: list[dict[str, Any]] = (answer or {}).get("Messages", [])
        self.counts["received"] += len(found)
        metrics.received("sqs", len(found))
        return found

    def _hold(self, message: Message) -> None:
        self._held[message.receipt] = message
        self._since[message.receipt] = time.monotonic()
        self._targets.update(message.targets)
        self._bound()
        self._note(message)

    def _let_go(self, message: Message) -> None:
        self._held.pop(message.receipt, None)
        self._since.pop(message.receipt, None)
        self._targets -= Counter(message.targets)
        self._bound()

    def _bound(self) -> None:
        """Receiving waits while too much is held."""
        if len(self._held) < MAX_HELD and len(self._targets) < MAX_TARGETS:
            self._room.set()
        else:
            self._room.clear()

    def _note(self, message: Message) -> None:
        self.counts["unroutable"] += len(message.unroutable)
        for event in message.unroutable:
            metrics.quarantined("sqs", "unroutable")
            log.error("no route reads bucket %.100s", event.bucket, extra={"key": event.key, "reason": "unroutable"})
        for note in message.notes:
            self.counts[note] += 1
            if note == "test-event":
                metrics.tested("sqs")
            log.log(logging.INFO if note in QUIET else logging.WARNING, "a message asks for nothing", extra={"reason": note})
        for reason in message.poison:
            self.counts[f"quarantined {reason}"] += 1
            metrics.quarantined("sqs", reason)
            log.warning("message quarantined, receive %d", message.receives, extra={"reason": reason})

    # --- starting and acknowledging ----------------------------------------------------------------------------------

    async def _handle(self, sqs: Any, message: Message, stop: asyncio.Event) -> None:
        started = await self.dispatcher.deliver(message.targets, stop)
        self.counts["started"] += len(message.targets - started.unavailable - started.refused)
        if started.unavailable or started.refused:
            self._let_go(message)
        elif not message.poison or await self._is_given_up(sqs, message):
            self._finished.append(message)
            self._more.set()
        else:
            self._let_go(message)

    async def _acknowledge(self, sqs: Any) -> None:
        while True:
            await self._more.wait()
            if len(self._finished) < BATCH:
                await asyncio.sleep(ACK_DELAY_S)
            self._more.clear()
            await self._flush(sqs)

    async def _flush(self, sqs: Any) -> None:
        while batch := self._finished[:BATCH]:
            del self._finished[: len(batch)]
            await self.delete(sqs, batch)
            for message in batch:
                self._let_go(message)

    async def delete(self, sqs: Any, messages: Sequence[Message]) -> None:
        """A message whose deletion fails comes back, is found to need nothing, and is deleted then."""
        entries = [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]
        answer = await sqs.delete_message_batch(QueueUrl=self.settings.queue_url, Entries=entries)
        failed = answer.get("Failed", [])
        self.counts["acknowledged"] += len(messages) - len(failed)
        for failure in failed:
            log.warning("message not deleted: %s %s", failure.get("Code"), failure.get("Message"))

    async def _measure(self) -> None:
        while True:
            oldest = min((message.sent_at for message in self._held.values()), default=None)
            metrics.oldest("sqs", 0.0 if oldest is None else max(0.0, time.time() - oldest))
            await asyncio.sleep(MEASURE_S)

    async def _keep_invisible(self, sqs: Any) -> None:
        """Messages that are held for long, because Temporal is away, stay invisible."""
        interval = max(1.0, self.pace.visibility_s / 3)
        while True:
            await asyncio.sleep(interval)
            old = [message for key, message in self._held.items() if time.monotonic() - self._since[key] >= interval]
            for at in range(0, len(old), BATCH):
                entries = [
                    {"Id": str(number), "ReceiptHandle": message.receipt, "VisibilityTimeout": self.pace.visibility_s}
                    for number, message in enumerate(old[at : at + BATCH])
                ]
                await sqs.change_message_visibility_batch(QueueUrl=self.settings.queue_url, Entries=entries)

    # --- poison ------------------------------------------------------------------------------------------------------

    async def _is_given_up(self, sqs: Any, message: Message) -> bool:
        if message.receives < POISON_RECEIVES or await self._has_redrive(sqs):
            return False
        reasons = ", ".join(message.poison)
        log.error("poisoned message deleted, the queue has no redrive policy: %r", message.body[:EXCERPT_CHARS], extra={"reason": reasons})
        return True

    async def _has_redrive(self, sqs: Any) -> bool:
        try:
            answer = await sqs.get_queue_attributes(QueueUrl=self.settings.queue_url, AttributeNames=["RedrivePolicy"])
        except ClientError as error:
            log.warning("the redrive policy of %s cannot be read: %s", self.settings.queue_url, error)
            return True
        return bool(answer.get("Attributes", {}).get("RedrivePolicy"))


def client_credentials(settings: SqsSettings, environ: Mapping[str, str], field_name: str) -> dict[str, str]:
    """Arguments of a client; none without keys, for the default credential chain. Raises `SettingsError`."""
    references = {
        "aws_access_key_id": ("access_key_id", settings.access_key_id),
        "aws_secret_access_key": ("secret_access_key", settings.secret_access_key),
        "aws_session_token": ("session_token", settings.session_token),
    }
    return {
        name: resolve_secret(ref, environ, field=f"{field_name}.{setting}")
        for name, (setting, ref) in references.items()
        if ref is not None
    }


async def _unless_stopped(request: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """What the request answers; None where `stop` is set first, and the request is given up."""
    asked, stopped = asyncio.ensure_future(request), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return asked.result() if asked.done() else None
    finally:
        for task in (asked, stopped):
            task.cancel()
        await asyncio.gather(asked, stopped, return_exceptions=True)
