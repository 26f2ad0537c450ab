"""S3 events from an SQS queue.

A message is acknowledged once every record of it was started, or asks for nothing; never before. While Temporal is
down the ingestor holds the one batch that it has, asks with growing pauses whether Temporal is back, and receives nothing,
so that an outage does not spend the receives that a redrive policy counts.

A poisoned message has a record that cannot be read. Its other records are started all the same. It is left to
the queue's redrive policy; where the queue has none, it is deleted when it is received for the fifth time, with its
reasons and an excerpt in the log. A queue whose policy cannot be read counts as one that has it.

Delivery is at least once, in any order, and a receipt may be stale: all of that is harmless, because an event is a hint.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from ingest.dispatch import BATCH_TIMEOUT_S, Dispatcher, RoutesByBucket, Started, Target, targets_of
from ingest.events import ChangeEvent, Quarantined, parse_sqs_body
from replication.ingest_settings import SqsSettings
from replication.secrets import resolve_secret

log = logging.getLogger("drayage.ingest")

T = TypeVar("T")

BATCH = 10
"""The most that SQS hands out in one answer."""
POISON_RECEIVES = 5
EXCERPT_CHARS = 300


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `visibility_s` is longer than a batch's starts may take; pauses double from the first to the longest."""

    wait_s: int = 20
    visibility_s: int = int(2 * BATCH_TIMEOUT_S)
    first_pause_s: float = 1.0
    longest_pause_s: float = 15.0

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures on end, from 1."""
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 10))


@dataclass(frozen=True, slots=True)
class Message:
    """One received message as it was judged: what to start for it, and why it is poisoned, if it is."""

    receipt: str
    body: str
    receives: int
    targets: frozenset[Target]
    unroutable: tuple[ChangeEvent, ...] = ()
    poison: tuple[str, ...] = ()


def read_message(raw: Mapping[str, Any], routes: RoutesByBucket) -> Message:
    """Judges one message of a ReceiveMessage answer. Pure; raises nothing for any body."""
    body = raw.get("Body", "")
    outcomes = parse_sqs_body(body)
    routed = [(event, targets_of(event, routes)) for event in outcomes if isinstance(event, ChangeEvent)]
    return Message(
        receipt=raw["ReceiptHandle"],
        body=body,
        receives=int(raw.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        targets=frozenset(target for _, found in routed for target in found or ()),
        unroutable=tuple(event for event, found in routed if found is None),
        poison=tuple(sorted({outcome.reason for outcome in outcomes if isinstance(outcome, Quarantined)})),
    )


def finished(messages: Sequence[Message], started: Started) -> list[Message]:
    """The messages that may be acknowledged: read to the end, and nothing of them left to start."""
    open_targets = started.unavailable | started.refused
    return [message for message in messages if not message.poison and not message.targets & open_targets]


@dataclass
class SqsIngestor:
    """One queue. `counts` tells what became of the messages since the start."""

    settings: SqsSettings
    environ: Mapping[str, str]
    dispatcher: Dispatcher
    routes: RoutesByBucket
    pace: Pace = Pace()
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raises `SettingsError` for a secret that is not there."""
        self._credentials = client_credentials(self.settings, self.environ)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. Whatever fails is logged and tried again, so that no queue stops another."""
        failures = 0
        while not stop.is_set():
            try:
                async with self.client() as sqs:
                    while not stop.is_set():
                        await self._turn(sqs, stop)
                        failures = 0
            except (ClientError, BotoCoreError, OSError) as error:
                log.error("queue %s: %s", self.settings.queue_url, error)
            except Exception:
                log.exception("queue %s: a defect", self.settings.queue_url)
            failures += 1
            await _pause(stop, self.pace.pause_s(failures))
        log.info("queue %s: stopped; %s", self.settings.queue_url, dict(self.counts))

    def client(self) -> Any:
        """A context manager that gives an SQS client."""
        config = AioConfig(connect_timeout=5, read_timeout=self.pace.wait_s + 10, retries={"max_attempts": 2, "mode": "standard"})
        session: Any = aioboto3.Session()
        return session.client(
            "sqs", region_name=self.settings.region, endpoint_url=self.settings.endpoint, config=config, **self._credentials
        )

    async def _turn(self, sqs: Any, stop: asyncio.Event) -> None:
        messages = [read_message(raw, self.routes) for raw in await self._receive(sqs, stop)]
        if not messages:
            return
        self._note(messages)
        started = await self._started(messages, stop)
        await self.delete(sqs, finished(messages, started))
        await self.delete(sqs, [message for message in messages if await self._is_given_up(sqs, message, started)])

    async def _receive(self, sqs: Any, stop: asyncio.Event) -> list[dict[str, Any]]:
        request = sqs.receive_message(
            QueueUrl=self.settings.queue_url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=self.pace.wait_s,
            VisibilityTimeout=self.pace.visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        answer = await _unless_stopped(request, stop)
        found: list[dict[str, Any]] = (answer or {}).get("Messages", [])
        return found

    def _note(self, messages: Sequence[Message]) -> None:
        self.counts["received"] += len(messages)
        for message in messages:
            self.counts["unroutable"] += len(message.unroutable)
            for event in message.unroutable:
                log.error("no route reads bucket %.100s", event.bucket, extra={"key": event.key, "reason": "unroutable"})
            for reason in message.poison:
                self.counts[f"quarantined {reason}"] += 1
                log.warning("message quarantined, receive %d", message.receives, extra={"reason": reason})

    async def _started(self, messages: Sequence[Message], stop: asyncio.Event) -> Started:
        """Starts what the batch asks for, each object once, and keeps at it for as long as Temporal is away."""
        targets = frozenset().union(*(message.targets for message in messages))
        started = await self.dispatcher.start(targets)
        refused, failures = started.refused, 0
        while started.unavailable and not stop.is_set():
            failures += 1
            log.warning("Temporal does not take %d starts; asking again in %.0f s", len(started.unavailable), self.pace.pause_s(failures))
            await _pause(stop, self.pace.pause_s(failures))
            if await self.dispatcher.healthy():
                started = await self.dispatcher.start(started.unavailable)
                refused |= started.refused
        self.counts["started"] += len(targets - started.unavailable - refused)
        return Started(started.unavailable, refused)

    async def _is_given_up(self, sqs: Any, message: Message, started: Started) -> bool:
        if not message.poison or message.receives < POISON_RECEIVES or message.targets & (started.unavailable | started.refused):
            return False
        if await self._has_redrive(sqs):
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

    async def delete(self, sqs: Any, messages: Sequence[Message]) -> None:
        """A message whose deletion fails comes back, is found to need nothing, and is deleted then."""
        if not messages:
            return
        entries = [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]
        answer = await sqs.delete_message_batch(QueueUrl=self.settings.queue_url, Entries=entries)
        failed = answer.get("Failed", [])
        self.counts["acknowledged"] += len(messages) - len(failed)
        for failure in failed:
            log.warning("message not deleted: %s %s", failure.get("Code"), failure.get("Message"))


def client_credentials(settings: SqsSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Arguments of a client; none without keys, for the default credential chain. Raises `SettingsError`."""
    references = {
        "aws_access_key_id": settings.access_key_id,
        "aws_secret_access_key": settings.secret_access_key,
        "aws_session_token": settings.session_token,
    }
    return {name: resolve_secret(ref, environ, field="ingest.sqs") for name, ref in references.items() if ref is not None}


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


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
