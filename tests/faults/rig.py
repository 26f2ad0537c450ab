"""One route between two real stores, each reached through a fault proxy, and workers that can be killed like processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from embedded.process import clean_environment
from replication.models import HousekeepingInput, HousekeepingResult, ReplicateObjectResult
from replication.settings import Settings, parse_settings
from stores.registry import Stores
from tests import warm
from tests.e2e.sides import S3Side, Side
from tests.lab import Handle, Lab
from tests.poll import eventually
from tests.proxy import FaultProxy
from workflows.housekeeping import Housekeeping

MIB = 1 << 20
PART = 5 * MIB
MAX_EVENTS = 300
"""More history than any scenario here may need."""
LOCK = ".drayage.lock"
"""One empty file that stays in each bucket of a file store."""
READY = "worker is ready"
RETRIES = {"error_delay": 0.1, "timeout_delay": 0.1}
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class WorkerProcess:
    """A real `worker.py` in a process of its own, to be killed, stopped and continued."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def ready(self) -> bool:
        text = self.log.read_text(errors="replace")
        if not self.running:
            pytest.fail(f"the worker ended with {self.child.returncode}:\n{text}")
        return READY in text

    def kill(self) -> None:
        """SIGKILL, and proof that the process died of it."""
        self.child.kill()
        assert self.child.wait(10) == -signal.SIGKILL

    def suspend(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.child.send_signal(signal.SIGCONT)

    async def terminate(self, timeout_s: float) -> int:
        """SIGTERM; the exit code. Fails when the process takes longer."""
        self.child.terminate()
        return await asyncio.to_thread(self.child.wait, timeout_s)

    def discard(self) -> None:
        if self.running:
            self.child.kill()
        self.child.wait(10)


class Relay:
    """A TCP relay to a server, so that one client's connections can be cut while everybody else's stay."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: set[asyncio.Task[None]] = set()
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Ends every connection and takes no new one."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers += [writer, back]
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@dataclass
class Rig:
    """The route `r-<token>` from `in-<token>/` of the source to `out-<token>/` of the destination."""

    client: Client
    source: Side
    destination: Side
    folder: Path
    document: dict[str, Any]
    before: str
    after: str
    reading: FaultProxy | None = None
    """Stands before the source."""
    writing: FaultProxy | None = None
    """Stands before the destination."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Variables for the workers, beside those of the sides."""
    _processes: list[WorkerProcess] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return parse_settings(self.document)

    @property
    def environ(self) -> dict[str, str]:
        return {**self.source.environ(), **self.destination.environ(), **self.secrets}

    @property
    def lab(self) -> Lab:
        """Starts and asks workflows; holds no open store."""
        settings = self.settings
        return Lab(self.client, settings, Stores(settings, self.environ))

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Lab]:
        """A worker in this process."""
        lab = self.lab
        try:
            async with lab.worker():
                yield lab
        finally:
            await lab.stores.close()

    async def process(self, *, temporal: str | None = None, **worker: Any) -> WorkerProcess:
        """A worker in a process of its own, polling. `worker` overrides its settings."""
        name = f"worker-{uuid.uuid4().hex[:8]}"
        target = self.client.service_client.config.target_host
        document = {**self.document, "temporal": {**self.document["temporal"], "address": temporal or target}}
        document["worker"] = {**document["worker"], **worker}
        config, log = self.folder / f"{name}.yaml", self.folder / f"{name}.log"
        config.write_text(json.dumps(document))
        started = WorkerProcess(await asyncio.to_thread(self._spawn, config, log), log)
        self._processes.append(started)
        await eventually(started.ready, 30.0)
        return started

    def _spawn(self, config: Path, log: Path) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in clean_environment().items() if not name.startswith("TEMPORAL_")}
        with log.open("wb") as output:
            return warm.start(
                [str(ROOT / "worker.py"), "--config", str(config)],
                cwd=self.folder,
                env={**inherited, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def close(self) -> None:
        for process in self._processes:
            process.discard()

    # --- both sides, as other programs see them ----------------------------------------------------------------------

    async def put(self, name: str, data: bytes) -> str:
        """Stores a source object and returns its key."""
        await asyncio.to_thread(self.source.put, self.before + name, data)
        return self.before + name

    async def remove(self, name: str) -> None:
        """Deletes a source object."""
        assert isinstance(self.source, S3Side)
        await asyncio.to_thread(self.source.client.delete_object, Bucket=self.source.bucket, Key=self.before + name)

    async def digest(self, name: str) -> str | None:
        """SHA-256 of the replica, None where there is none."""
        seen = await asyncio.to_thread(self.destination.see, self.after + name)
        return seen.sha256 if seen else None

    async def version(self, name: str) -> str | None:
        """What changes with every write of the replica."""
        seen = await asyncio.to_thread(self.destination.see, self.after + name)
        return seen.stamp if seen else None

    async def leftovers(self) -> list[str]:
        """Open uploads of this route and temporary objects or files of the product, without the lock of a folder."""
        names = await asyncio.to_thread(self.destination.keys)
        found = [name for name in names if ".drayage" in name and name != LOCK]
        if isinstance(self.destination, S3Side):
            uploads = await asyncio.to_thread(self.destination.uploads)
            found += [f"upload of {key}" for key in uploads if key.startswith(self.after)]
        return found

    async def assert_settled(self, name: str, data: bytes | None, handle: Handle | None = None) -> None:
        """The replica is `data` (None: absent), nothing unfinished is left, and the history stayed short."""
        stands, wanted = await self.digest(name), None if data is None else sha256(data)
        assert stands == wanted, f"the replica of {name!r} has the digest {stands}, not {wanted}"
        left = await self.leftovers()
        assert left == [], f"left behind: {left}"
        if handle is not None:
            events = len((await handle.fetch_history()).events)
            assert events < MAX_EVENTS, f"{events} events"

    async def holds(self, name: str, data: bytes) -> bool:
        return await self.digest(name) == sha256(data)

    def on(self, name: str) -> str:
        """The pattern of S3 requests for a replica."""
        return f"/{self.destination.bucket}/{self.after}{name}"

    def of(self, name: str) -> str:
        """The pattern of S3 requests for a source object."""
        return f"/{self.source.bucket}/{self.before}{name}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int) -> bytes:
    return os.urandom(size)


async def failure(handle: Handle) -> ReplicateObjectResult:
    """The result that a failed object workflow carries."""
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError), cause
    result = ReplicateObjectResult.model_validate(cause.details[0])
    assert result.reason == cause.type
    return result


async def sweep(lab: Lab, *, older_than_s: float = 0.0) -> HousekeepingResult:
    """One sweep, by default of uploads of any age."""
    return await lab.client.execute_workflow(
        Housekeeping.run, HousekeepingInput(older_than_s=older_than_s), id=f"housekeeping-{uuid.uuid4()}", task_queue=lab.queue
    )
