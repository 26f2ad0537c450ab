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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from ingest import metrics
from ingest.dispatch import Dispatcher, RoutesByBucket
from ingest.held import Bounds, Held
from ingest.operator_messages import Replicas
from ingest.pace import Pace, pause, unless_stopped
from ingest.sqs_messages import Message, read_message
from replication.ingest_settings import SqsSettings
from replication.secrets import resolve_secret
from service.health import Report, silent

log = logging.getLogger("drayage.ingest")

BATCH = 10
"""The most that SQS hands out, or takes, in one request."""
RECEIVES_AT_ONCE = 4
ACKS_AT_ONCE = 4
ACK_DELAY_S = 0.05
"""How long a finished message waits for others to be acknowledged with."""
POISON_RECEIVES = 5
EXCERPT_CHARS = 300
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
    bounds: Bounds = field(default_factory=Bounds)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raises `SettingsError` for a secret that is not there."""
        self._credentials = client_credentials(self.settings, self.environ, self.name)
        self.held = Held(self.bounds)
        self._answered = False
        self._room = asyncio.Event()
        self._finished: asyncio.Queue[Message] = asyncio.Queue()

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
                self.report(False, type(error).__name__)
            failures = 1 if time.monotonic() - began > self.pace.longest_pause_s else failures + 1
            await pause(stop, self.pace.pause_s(failures))
        log.info("queue %s: stopped; %s", self.settings.queue_url, dict(self.counts))

    async def _follow(self, sqs: Any, stop: asyncio.Event) -> None:
        """Receives, starts and acknowledges until `stop` is set; the first failure ends all and is raised as it is.

        What is held then comes back when its visibility ends.
        """
        self.held, self._finished = Held(self.bounds), asyncio.Queue()
        self._answered = False
        self._room.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                collecting = asyncio.Lock()
                helpers = [tasks.create_task(self._acknowledge(sqs, collecting)) for _ in range(ACKS_AT_ONCE)]
                helpers += [tasks.create_task(self._keep_invisible(sqs)), tasks.create_task(self._measure())]
                handlers: set[asyncio.Task[None]] = set()
                receivers = [tasks.create_task(self._receive(sqs, stop, tasks, handlers)) for _ in range(RECEIVES_AT_ONCE)]
                await asyncio.gather(*receivers)
                await asyncio.gather(*handlers)
                await self._finished.join()
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def client(self) -> Any:
        """A context manager that gives an SQS client."""
        config = AioConfig(
            connect_timeout=5,
            read_timeout=self.pace.wait_s + 10,
            retries={"max_attempts": 2, "mode": "standard"},
            max_pool_connections=RECEIVES_AT_ONCE + ACKS_AT_ONCE + 2,
        )
        session: Any = aioboto3.Session()
        return session.client(
            "sqs", region_name=self.settings.region, endpoint_url=self.settings.endpoint, config=config, **self._credentials
        )

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def _receive(self, sqs: Any, stop: asyncio.Event, tasks: asyncio.TaskGroup, handlers: set[asyncio.Task[None]]) -> None:
        while not stop.is_set():
            if not self.dispatcher.available and not await self.dispatcher.wait_available(stop):
                return
            if not await unless_stopped(self._room.wait(), stop):
                return
            for raw in await self._batch(sqs, stop):
                message = read_message(raw, self.routes, self.replicas)
                self._hold(message)
                handler = tasks.create_task(self._handle(sqs, message, stop))
                handlers.add(handler)
                handler.add_done_callback(handlers.discard)

    async def _batch(self, sqs: Any, stop: asyncio.Event) -> list[dict[str, Any]]:
        """The first request waits for no message: it tells whether the queue answers."""
        request = sqs.receive_message(
            QueueUrl=self.settings.queue_url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=self.pace.wait_s if self._answered else 0,
            VisibilityTimeout=self.pace.visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        answer = await unless_stopped(request, stop)
        if answer is not None:
            self._answered = True
            self.report(True, "")
        found: list[dict[str, Any]] = (answer or {}).get("Messages", [])
        self.counts["received"] += len(found)
        metrics.received("sqs", len(found))
        return found

    def _hold(self, message: Message) -> None:
        self.held.add(message, time.monotonic())
        self._bound()
        self._note(message)

    def _let_go(self, message: Message) -> None:
        self.held.drop(message)
        self._bound()

    def _bound(self) -> None:
        """Receiving waits while too much is held."""
        if self.held.is_full:
            self._room.clear()
        else:
            self._room.set()

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
            self._finished.put_nowait(message)
        else:
            self._let_go(message)

    async def _acknowledge(self, sqs: Any, collecting: asyncio.Lock) -> None:
        while True:
            async with collecting:
                batch = await self._next_finished()
            if again := await self.delete(sqs, batch):
                await self.delete(sqs, again)
            for message in batch:
                self._let_go(message)
                self._finished.task_done()

    async def _next_finished(self) -> list[Message]:
        """At least one, and those that finish within a moment after it."""
        batch = [await self._finished.get()]
        if self._finished.qsize() < BATCH - 1:
            await asyncio.sleep(ACK_DELAY_S)
        while len(batch) < BATCH and not self._finished.empty():
            batch.append(self._finished.get_nowait())
        return batch

    async def delete(self, sqs: Any, messages: Sequence[Message]) -> list[Message]:
        """Those that SQS failed to delete by a fault of its own. A message that is not deleted comes back, needs nothing,
        and is deleted then."""
        entries = [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]
        answer = await sqs.delete_message_batch(QueueUrl=self.settings.queue_url, Entries=entries)
        failed = answer.get("Failed", [])
        self.counts["acknowledged"] += len(messages) - len(failed)
        for failure in failed:
            log.warning("message not deleted: %s %s", failure.get("Code"), failure.get("Message"))
        return [messages[int(failure["Id"])] for failure in failed if not failure.get("SenderFault")]

    async def _measure(self) -> None:
        try:
            while True:
                oldest = self.held.oldest_sent_at
                metrics.oldest("sqs", 0.0 if oldest is None else max(0.0, time.time() - oldest), self.name)
                await asyncio.sleep(MEASURE_S)
        finally:
            metrics.oldest("sqs", 0.0, self.name)

    async def _keep_invisible(self, sqs: Any) -> None:
        """Messages that are held for long, because Temporal is away or slow, stay invisible to others."""
        visibility_s = float(self.pace.visibility_s)
        while True:
            await asyncio.sleep(max(visibility_s / 8, 0.1))
            old = self.held.leased_before(time.monotonic() - visibility_s / 2)
            for at in range(0, len(old), BATCH):
                await self._extend(sqs, old[at : at + BATCH])

    async def _extend(self, sqs: Any, messages: Sequence[Message]) -> None:
        """A message whose visibility cannot be extended, twelve hours being the most, may be handed out a second time."""
        entries = [
            {"Id": str(number), "ReceiptHandle": message.receipt, "VisibilityTimeout": self.pace.visibility_s}
            for number, message in enumerate(messages)
        ]
        now = time.monotonic()
        answer = await sqs.change_message_visibility_batch(QueueUrl=self.settings.queue_url, Entries=entries)
        for message in messages:
            self.held.renew(message, now)
        self.counts["extended"] += len(messages) - len(answer.get("Failed", []))
        if failed := answer.get("Failed"):
            log.warning("%d messages do not stay invisible: %s", len(failed), failed[0].get("Code"))

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
