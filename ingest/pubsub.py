"""GCS notifications from a Pub/Sub subscription, by streaming pull with flow control.

A message is acknowledged once its object was started. Messages that are held, because Temporal is away or their key waits
for its turn, keep their lease: the client library extends it. What Temporal refuses goes back after a pause.

A poisoned message cannot be read. Where the subscription has a dead-letter policy it goes back, until the service moves it
there; elsewhere it is acknowledged with an error and an excerpt in the log, because it would come back for ever.

Delivery is at least once, and Cloud Storage may publish one event several times: both are harmless.
https://cloud.google.com/pubsub/docs/pull
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1

from ingest import metrics
from ingest.dispatch import Dispatcher, RoutesByBucket, Target, targets_of
from ingest.events import ChangeEvent, Quarantined
from ingest.gcs_events import parse_pubsub
from ingest.pace import Pace, pause
from replication.ingest_settings import PubSubSettings
from service.health import Report, silent

log = logging.getLogger("drayage.ingest")

MAX_HELD = 1_000
MAX_HELD_BYTES = 32 * 1024 * 1024
MAX_LEASE_S = 3_600
REFUSED_PAUSE_S = 10.0
MEASURE_S = 5.0
EXCERPT_CHARS = 300
LOOK_S = 10.0
"""How long a request for the subscription may take."""
EMULATOR = "PUBSUB_EMULATOR_HOST"


@dataclass
class PubSubIngestor:
    """One subscription. `counts` tells what became of the messages since the start."""

    settings: PubSubSettings
    dispatcher: Dispatcher
    routes: RoutesByBucket
    pace: Pace = field(default_factory=Pace)
    report: Report = silent
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._held: dict[int, float] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._has_dead_letters = False

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. Whatever fails is logged and tried again, so that no subscription stops another."""
        failures = 0
        while not stop.is_set():
            began = time.monotonic()
            try:
                await self._follow(stop)
            except (GoogleAPICallError, GoogleAuthError, OSError) as error:
                log.error("subscription %s: %s", self.settings.subscription, error)
                self.report(False, str(error))
            except Exception as error:
                log.exception("subscription %s: a defect", self.settings.subscription)
                self.report(False, repr(error))
            failures = 1 if time.monotonic() - began > self.pace.longest_pause_s else failures + 1
            await pause(stop, self.pace.pause_s(failures))
        log.info("subscription %s: stopped; %s", self.settings.subscription, dict(self.counts))

    async def _follow(self, stop: asyncio.Event) -> None:
        """Pulls until `stop` is set or the stream breaks, which is raised. What is held then comes back."""
        client = await asyncio.to_thread(_client)
        try:
            await asyncio.to_thread(self._look, client)
            self.report(True, "")
            await self._pull(client, stop)
        finally:
            await asyncio.to_thread(client.close)

    def _look(self, client: Any) -> None:
        """Reads whether there is a dead-letter policy; raises where the subscription cannot be read."""
        found = client.get_subscription(subscription=self.settings.subscription, timeout=LOOK_S, retry=None)
        self._has_dead_letters = bool(found.dead_letter_policy.dead_letter_topic)

    async def _pull(self, client: Any, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        flow = pubsub_v1.types.FlowControl(max_messages=MAX_HELD, max_bytes=MAX_HELD_BYTES, max_lease_duration=MAX_LEASE_S)
        broken: asyncio.Future[None] = loop.create_future()

        def receive(message: Any) -> None:
            loop.call_soon_threadsafe(self._receive, message, stop)

        def ended(pulling: Any) -> None:
            error = None if pulling.cancelled() else pulling.exception()
            loop.call_soon_threadsafe(_settle, broken, error)

        pulling = client.subscribe(self.settings.subscription, receive, flow_control=flow)
        pulling.add_done_callback(ended)
        measuring = asyncio.create_task(self._measure())
        stopping = asyncio.create_task(stop.wait())
        try:
            waited: set[asyncio.Future[Any]] = {broken, stopping}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                await broken
        finally:
            pulling.cancel()
            await asyncio.wait({broken}, timeout=LOOK_S)
            await asyncio.gather(*self._handlers, return_exceptions=True)
            for task in (measuring, stopping):
                task.cancel()
            await asyncio.gather(measuring, stopping, return_exceptions=True)

    def _receive(self, message: Any, stop: asyncio.Event) -> None:
        handler = asyncio.create_task(self._handle(message, stop))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _handle(self, message: Any, stop: asyncio.Event) -> None:
        self.counts["received"] += 1
        metrics.received("pubsub")
        self._held[id(message)] = message.publish_time.timestamp()
        try:
            (outcome,) = parse_pubsub(message.attributes, message.data)
            if isinstance(outcome, Quarantined):
                await self._quarantine(message, outcome.reason)
            elif isinstance(outcome, ChangeEvent):
                await self._start(message, outcome, stop)
        finally:
            del self._held[id(message)]

    async def _start(self, message: Any, event: ChangeEvent, stop: asyncio.Event) -> None:
        targets: tuple[Target, ...] | None = targets_of(event, self.routes)
        if targets is None:
            self.counts["unroutable"] += 1
            metrics.quarantined("pubsub", "unroutable")
            log.error("no route reads bucket %.100s", event.bucket, extra={"key": event.key, "reason": "unroutable"})
        started = await self.dispatcher.deliver(targets or (), stop)
        if started.refused:
            await pause(stop, REFUSED_PAUSE_S)
        if started.refused or started.unavailable:
            await _answer(message.nack)
            return
        self.counts["started"] += len(targets or ())
        self.counts["acknowledged"] += 1
        await _answer(message.ack)

    async def _quarantine(self, message: Any, reason: str) -> None:
        self.counts[f"quarantined {reason}"] += 1
        metrics.quarantined("pubsub", reason)
        if self._has_dead_letters:
            log.warning("message quarantined, delivery %s", message.delivery_attempt, extra={"reason": reason})
            await _answer(message.nack)
            return
        excerpt = message.data[:EXCERPT_CHARS]
        log.error("poisoned message dropped, the subscription has no dead-letter policy: %r", excerpt, extra={"reason": reason})
        await _answer(message.ack)

    async def _measure(self) -> None:
        while True:
            metrics.oldest("pubsub", max(0.0, time.time() - min(self._held.values())) if self._held else 0.0)
            await asyncio.sleep(MEASURE_S)


def _client() -> Any:
    """A subscriber; without credentials where an emulator is named, so that nothing asks for any."""
    if os.environ.get(EMULATOR):
        credentials: Any = AnonymousCredentials
        return pubsub_v1.SubscriberClient(credentials=credentials())
    return pubsub_v1.SubscriberClient()


async def _answer(answer: Callable[[], None]) -> None:
    """Acknowledging only queues a request; it takes the library's lock."""
    await asyncio.to_thread(answer)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
