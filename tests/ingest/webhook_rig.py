"""A webhook listening on a port of its own, with whatever stands behind it, and clients that behave and that do not."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from embedded.ports import LOOPBACK, free_port
from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.operator_messages import replicas_of
from ingest.webhook import Webhook
from replication.ids import object_workflow_id
from replication.ingest_settings import WebhookSettings
from replication.settings import Settings, parse_settings
from service.logs import JsonFormatter
from stores.registry import Stores
from tests.ingest.test_events import s3_body, s3_record
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url
from tests.poll import eventually, within

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EVENT = s3_body(s3_record("k"))


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any


@dataclass
class WebhookRig:
    """One webhook. `stores` and `routes` are sections of the configuration; the first route reads the bucket `photos`,
    unless it is said otherwise."""

    client: Client
    stores: dict[str, Any] = field(default_factory=lambda: {"aws": {"type": "s3"}, "disk": {"type": "file", "root": "/stores"}})
    routes: list[dict[str, Any]] = field(default_factory=lambda: [route("aws", "photos", "disk", "copy", exclude=["*.tmp"])])
    environ: dict[str, str] = field(default_factory=dict)
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex}")
    listen: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")
    rate: int = 500
    max_body: int = 1 << 20
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the webhook."""

    def __post_init__(self) -> None:
        document = {"ledger": ledger_url(), "temporal": {"task_queue": self.queue}, "stores": self.stores, "routes": self.routes}
        self.settings: Settings = parse_settings({**document, "worker": {"retries": FAST_RETRIES, "control_slots": 20}})
        listener = WebhookSettings(listen=self.listen, token="env:TOKEN", rate=self.rate, max_body=self.max_body)
        self.dispatcher: Dispatcher = self.options.pop("dispatcher", None) or Dispatcher(
            self.client, self.queue, start_timeout=timedelta(seconds=2), coalesce_s=0.05
        )
        routes, replicas = routes_by_bucket(self.settings, "s3"), replicas_of(self.settings)
        self.webhook = Webhook(listener, TOKEN, self.dispatcher, routes, replicas, **self.options)
        self.stop = asyncio.Event()

    @property
    def route(self) -> str:
        return self.settings.routes[0].name

    @property
    def url(self) -> str:
        return f"http://{self.listen}/events"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The webhook, from the moment it listens to its orderly end."""
        task = asyncio.create_task(self.webhook.run(self.stop))
        try:
            await eventually(lambda: task.done() or self.is_listening(), 10)
            yield
        finally:
            self.stop.set()
            try:
                await within(task, 30)
            finally:
                await self.dispatcher.close()

    async def is_listening(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await self.connect()
            writer.close()
            await writer.wait_closed()
            return True
        return False

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        stores = Stores(self.settings, self.environ)
        try:
            async with Lab(self.client, self.settings, stores).worker():
                yield
        finally:
            await stores.close()

    async def post(self, body: Any, path: str = "/events", method: str = "POST", headers: dict[str, str] | None = None) -> Answer:
        """`body` is text, bytes, a document, or an asynchronous iterator of chunks. With the token, unless `headers` are given."""
        text = json.dumps(body) if isinstance(body, (dict, list)) else body
        data = io.BytesIO(text if isinstance(text, bytes) else text.encode()) if isinstance(text, (str, bytes)) else text
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self.listen}{path}", data=data, headers=BEARER if headers is None else headers) as got,
        ):
            return Answer(got.status, await got.json() if got.content_type == "application/json" else await got.text(), got.headers)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.listen.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def raw(self, request: bytes) -> bytes:
        """Everything that the listener sends back until it closes the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await within(reader.read(), 30)
        finally:
            writer.close()

    async def started(self, key: str, route: str | None = None) -> bool:
        """Whether a workflow of that key was ever started."""
        handle = self.client.get_workflow_handle(object_workflow_id(route or self.route, key))
        try:
            return bool((await handle.describe()).run_id)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return False


def route(source: str, bucket: str, destination: str, replica: str, **more: Any) -> dict[str, Any]:
    ends = {"source": {"store": source, "bucket": bucket}, "destination": {"store": destination, "bucket": replica}}
    return {"name": f"r-{uuid.uuid4().hex[:12]}", **ends, **more}


def request_bytes(host: str, body: str = EVENT, more: str = "") -> bytes:
    head = f"POST /events HTTP/1.1\r\n{host}Authorization: Bearer {TOKEN}\r\n{more}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """What every logger writes meanwhile, as the program would write it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield text
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


class Recorder:
    """A server that records the first line of every request and answers 404: a store that must not be asked, say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Recorder:
        self._server = await asyncio.start_server(self._answer, LOOPBACK, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode())
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
