"""Change events by HTTP, for stores that push them and for relays from other clouds. Works until it is stopped.

`POST /` and `POST /events` take one event body each, as the sender made it, with `Authorization: Bearer TOKEN`:

- SeaweedFS: `[notification.webhook]` in notification.toml, `endpoint` and `bearer_token`. Release 4.48 tries an event
  once, whatever its `max_retries`: what is not answered with 2xx is gone until the next pass over the route. So keep
  `rate` above its peak, set its `timeout_seconds` to 30, for Temporal may be away for a moment, and its `workers` to 100,
  for an event of a key that was started just now is answered up to a second later. An event has 190 bytes for each
  chunk of 4 MiB, twice that for an overwritten object: `max_body` is enough for 20 GB, or 10.
- MinIO: `MINIO_NOTIFY_WEBHOOK_ENDPOINT_x`, `…_AUTH_TOKEN_x`, and `…_QUEUE_DIR_x`, without which it does not repeat.
- EventBridge: an API destination whose connection sends the header `Authorization`.
- SNS: a subscription `https://drayage:TOKEN@host/events`. SNS knows basic authentication only, so the token is accepted
  as its password. No URL of a body is ever fetched: a new subscription is logged for a person to confirm.
- Anything else, such as a function in the other cloud that a queue calls: post the queue's body unchanged and fail on
  every answer but 202, 400 and 413, so that the queue repeats it. Which events were sent already need not be remembered.

An event is acknowledged, with 202 and the counts of what it led to, when Temporal has accepted every start. While Temporal
is away a request is held for `HOLD_S`. Where some start is not accepted, the answer is 503 and the sender repeats all,
which is harmless: an event is a hint. 400 is for a body
of which nothing can be read; it is no better when repeated. A body that can be read in part starts that part and is
answered with 202; the rest is counted as quarantined and logged.

The whole of a body is read before anything is done, and only the requests that are authenticated count towards `rate`,
so that strangers cannot use it up. Nothing of a request is logged but the bucket and key of an event, and what SNS asks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from ingest import metrics
from ingest.dispatch import Dispatcher, RoutesByBucket, Started, Target
from ingest.events import REASONS
from ingest.operator_messages import Replicas
from ingest.rate import Bucket, take
from ingest.webhook_bodies import Reading, read_body
from replication.ingest_settings import WebhookSettings
from service.health import Report, silent
from service.http_listener import IDLE_S, Refused, listening, own_hosts

log = logging.getLogger("drayage.ingest")

FIELD = "ingest.webhook.listen"
BODIES_AT_ONCE = 32
"""Bodies in memory at once; others wait for `SLOT_WAIT_S`."""
SLOT_WAIT_S = 5.0
BODY_S = 10.0
"""From the end of the headers to the end of the body."""
HOLD_S = 8.0
RETRY_AFTER_S = 5
UNROUTABLE_LOGGED = 10
"""Of one body; all are counted."""
QUIET = frozenset({"no-records", "test-event", "outside-buckets", "internal", "bucket", "directory", "skipped", "other-bucket"})
"""Notes that a sender may repeat for ever."""
CHALLENGES = (("WWW-Authenticate", "Bearer"), ("WWW-Authenticate", 'Basic realm="drayage"'))


@dataclass
class Webhook:
    """One listener. `counts` tells how many requests had which answer since the start."""

    settings: WebhookSettings
    token: str = field(repr=False)
    dispatcher: Dispatcher
    routes: RoutesByBucket
    replicas: Replicas = field(default_factory=dict)
    report: Report = silent
    clock: Callable[[], float] = time.monotonic
    idle_s: float = IDLE_S
    body_s: float = BODY_S
    hold_s: float = HOLD_S
    counts: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._secret = self.token.encode()
        self._hosts = own_hosts(self.settings.listen)
        self._bucket = Bucket(self.settings.rate, self.clock())
        self._slots = asyncio.Semaphore(BODIES_AT_ONCE)
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Listens until `stop` is set, then finishes the requests under way. Raises `SettingsError` for an address that
        cannot be bound."""
        self._stop = stop
        async with listening(self._app(), self.settings.listen, FIELD, idle_s=self.idle_s):
            log.info("webhook: listening on %s", self.settings.listen)
            self.report(True, "")
            await stop.wait()
        log.info("webhook: stopped; answers %s", dict(self.counts))

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=self.settings.max_body + 1)
        for path in ("/", "/events"):
            app.router.add_post(path, self._take)
        app.on_response_prepare.append(self._count)
        return app

    async def _count(self, _: web.Request, answer: web.StreamResponse) -> None:
        self.counts[answer.status] += 1

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keeps web pages out, ahead of everything else: a program sends no Origin."""
        if "Origin" in request.headers:
            raise Refused(403, "requests of web pages are not taken")
        hosts = [host.lower() for host in request.headers.getall("Host", [])]
        if self._hosts is not None and (len(hosts) != 1 or hosts[0] not in self._hosts):
            raise Refused(403, "the Host header is not this listener's")
        return await handler(request)

    async def _take(self, request: web.Request) -> web.Response:
        if not self._is_authentic(request):
            raise Refused(401, "a bearer token is needed", *CHALLENGES)
        self._bucket, wait_s = take(self._bucket, self.settings.rate, self.clock())
        if wait_s:
            raise Refused(429, f"more than {self.settings.rate} requests a second", ("Retry-After", str(math.ceil(wait_s))))
        async with self._slot():
            reading = read_body(await self._body(request), self.routes, self.replicas)
        self._note(reading)
        if reading.is_unreadable:
            return _unreadable(reading)
        return _accepted(reading, await self._started(reading.targets))

    def _is_authentic(self, request: web.Request) -> bool:
        """Compares in constant time, the password of basic authentication for senders that have no other."""
        values = request.headers.getall("Authorization", [])
        scheme, _, credentials = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        given = credentials.strip().encode(errors="surrogateescape")
        if scheme.lower() == "basic":
            given = _password(given)
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._secret)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise Refused(503, "too many requests at once", ("Retry-After", "1")) from None
        try:
            yield
        finally:
            self._slots.release()

    async def _body(self, request: web.Request) -> bytes:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(415, "the body must not be compressed")
        if (request.content_length or 0) > self.settings.max_body:
            raise Refused(413, f"the body has more than {self.settings.max_body} bytes")
        try:
            async with asyncio.timeout(self.body_s):
                return await request.read()
        except TimeoutError:
            raise Refused(408, "the body did not come in time", ("Connection", "close")) from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(413, f"the body has more than {self.settings.max_body} bytes") from None
        except web.RequestPayloadError:
            raise Refused(400, "the body is cut short") from None

    async def _started(self, targets: Iterable[Target]) -> Started:
        """Starts them, once Temporal takes starts again."""
        wanted = frozenset(targets)
        if wanted and not self.dispatcher.available:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.dispatcher.wait_available(self._stop), self.hold_s)
            if not self.dispatcher.available:
                return Started(unavailable=wanted)
        return await self.dispatcher.start(wanted)

    def _note(self, reading: Reading) -> None:
        metrics.received("webhook")
        for number, event in enumerate(reading.unroutable):
            metrics.quarantined("webhook", "unroutable")
            if number < UNROUTABLE_LOGGED:
                log.error("no route reads bucket %.100s", event.bucket, extra={"key": event.key, "reason": "unroutable"})
        for reason, count in Counter(reading.poison).items():
            metrics.quarantined("webhook", reason)
            log.warning("webhook: %d records quarantined", count, extra={"reason": reason})
        for note in reading.notes:
            if note == "test-event":
                metrics.tested("webhook")
            log.log(logging.DEBUG if note in QUIET else logging.WARNING, "webhook: a record asks for nothing", extra={"reason": note})
        if asked := reading.subscription:
            log.warning("%s", asked.advice, extra={"reason": "subscription-confirmation"})


def _unreadable(reading: Reading) -> web.Response:
    reasons = sorted(set(reading.poison))
    return web.json_response({"error": "; ".join(REASONS[reason] for reason in reasons), "reasons": reasons}, status=400)


def _accepted(reading: Reading, started: Started) -> web.Response:
    """`started` counts objects of routes, the others records. Raises `Refused` where a start is left to do."""
    left, wanted = len(started.unavailable | started.refused), len(set(reading.targets))
    if left:
        raise Refused(503, f"Temporal did not take {left} of {wanted} starts", ("Retry-After", str(RETRY_AFTER_S)))
    quarantined = len(reading.poison) + len(reading.unroutable)
    return web.json_response({"started": wanted, "ignored": reading.ignored, "quarantined": quarantined}, status=202)


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
