"""`demo`: real servers, a real worker process, real objects, in every direction; then a look with other eyes.

The servers are those of the wheels (Temporal's own CLI, SeaweedFS, fake-gcs-server) in a folder that goes away; the worker
is `worker.py` with a configuration file, started as anybody would start it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Column, Table
from temporalio.client import Client
from temporalio.service import RPCError

from cli.demo_data import MIB, SAMPLES, FolderShelf, GcsShelf, S3Shelf, Sample, Shelf
from cli.objects import Handle, read_progress, settled, start_object
from embedded.fake_gcs import FakeGcs
from embedded.process import clean_environment
from embedded.seaweedfs import SeaweedFS
from embedded.stack import Stack
from embedded.temporal import TemporalServer
from replication.models import ReplicateObjectResult
from replication.settings import load_settings
from workflows.client import connect

ROOT = Path(__file__).parent.parent
LOOK_EVERY_S = 0.4
WORKER_READY_S = 30.0


@dataclass
class Lane:
    """One route of the demo, and what came of it."""

    name: str
    title: str
    source: dict[str, str]
    destination: dict[str, str]
    replicas: Shelf
    began: float = 0.0
    seconds: float = 0.0
    results: list[ReplicateObjectResult] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def bytes_copied(self) -> int:
        return sum(result.bytes_copied for result in self.results)

    @property
    def verified(self) -> str:
        return "\n".join(sorted({result.verification for result in self.results if result.verification})) or "-"


async def run_demo(*, keep: bool, json_output: bool) -> int:
    """Exit code 0 when every object arrived and was read back equal, else 1."""
    console = Console(stderr=json_output, highlight=False)
    if not console.is_terminal:
        console.width = 100
    with tempfile.TemporaryDirectory(prefix="drayage-demo-") as folder:
        servers = TemporalServer(), SeaweedFS(), SeaweedFS(), FakeGcs()
        began = time.monotonic()
        with console.status("starting Temporal, two SeaweedFS and fake-gcs-server …"):
            stack = await asyncio.to_thread(Stack(*servers).start)
        try:
            console.print(f"servers ready in {time.monotonic() - began:.1f} s; Temporal Web UI: {servers[0].ui_url}")
            demo = Demo(Path(folder), *servers, console)
            with demo.worker():
                code = await demo.run()
                demo.tell(json_output=json_output)
                if keep:
                    await demo.stay()
            return code
        finally:
            await asyncio.shield(asyncio.to_thread(stack.stop))


class Demo:
    """The servers, the lanes between them, and the worker."""

    def __init__(self, folder: Path, temporal: TemporalServer, first: SeaweedFS, second: SeaweedFS, gcs: FakeGcs, console: Console) -> None:
        self._folder, self._temporal, self._first, self._second, self._gcs = folder, temporal, first, second, gcs
        self._console = console
        self.config = folder / "drayage.yaml"
        self._log = folder / "worker.log"
        disk = folder / "disk"
        self._sources: tuple[Shelf, ...] = (S3Shelf(first, "photos"), GcsShelf(gcs, "archive"), FolderShelf(disk, "outbox"))
        photos, archive, outbox = _place("s3-one", "photos"), _place("gcs", "archive"), _place("disk", "outbox")
        self._lanes = [
            Lane("s3-to-gcs", "S3 → GCS", photos, _place("gcs", "photos"), GcsShelf(gcs, "photos")),
            Lane("gcs-to-s3", "GCS → S3", archive, _place("s3-one", "from-gcs"), S3Shelf(first, "from-gcs")),
            Lane("s3-to-s3", "S3 → other S3", photos, _place("s3-two", "photos"), S3Shelf(second, "photos")),
            Lane("s3-to-folder", "S3 → folder", photos, _place("disk", "photos"), FolderShelf(disk, "photos")),
            Lane("folder-to-s3", "folder → S3", outbox, _place("s3-two", "from-folder"), S3Shelf(second, "from-folder")),
        ]
        self._write_config(disk)

    @property
    def secrets(self) -> dict[str, str]:
        """The variables that the configuration refers to."""
        return {
            "S3_ONE_KEY": self._first.access_key,
            "S3_ONE_SECRET": self._first.secret_key,
            "S3_TWO_KEY": self._second.access_key,
            "S3_TWO_SECRET": self._second.secret_key,
        }

    def _write_config(self, disk: Path) -> None:
        routes = [{"name": lane.name, "source": lane.source, "destination": lane.destination} for lane in self._lanes]
        stores = {
            "s3-one": _s3(self._first, "S3_ONE"),
            "s3-two": _s3(self._second, "S3_TWO"),
            "gcs": {"type": "gcs", "endpoint": self._gcs.endpoint, "anonymous": True},
            "disk": {"type": "file", "root": str(disk)},
        }
        ledger = f"sqlite:///{self.config.parent.resolve()}/ledger.db"
        document = {"temporal": {"address": self._temporal.address}, "ledger": ledger, "stores": stores, "routes": routes}
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """`python worker.py --config …` while the block runs; stopped by SIGTERM."""
        environment = clean_environment() | self.secrets
        with self._log.open("wb") as log:
            argv = [sys.executable, str(ROOT / "worker.py"), "--config", str(self.config)]
            process = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    async def run(self) -> int:
        with self._console.status("writing the objects of the sources …"):
            await asyncio.gather(*(asyncio.to_thread(shelf.fill, SAMPLES) for shelf in self._sources))
        client = await connect(load_settings(self.config, os.environ).temporal, {})
        await self._worker_ready()
        await self._replicate(client)
        with self._console.status("reading everything back with boto3, google-cloud-storage and open() …"):
            await asyncio.gather(*(asyncio.to_thread(_check, lane) for lane in self._lanes))
        return int(any(lane.problems for lane in self._lanes))

    async def _worker_ready(self) -> None:
        deadline = time.monotonic() + WORKER_READY_S
        while "worker is ready" not in self._log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not become ready:\n{self._log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.1)

    async def _replicate(self, client: Client) -> None:
        """The lanes one after the other, so that each shows its own speed."""
        for lane in self._lanes:
            with _bars(self._console) as bars:
                task = bars.add_task(lane.title, total=sum(sample.size_bytes for sample in SAMPLES))
                await _run_lane(client, lane, bars, task)
            if not self._console.is_terminal:
                self._console.print(f"{lane.title}: {len(lane.results)} objects in {lane.seconds:.1f} s")

    def tell(self, *, json_output: bool) -> None:
        table = Table("route", "objects", "MiB", "seconds", "MiB/s", Column("verification", no_wrap=True), "read back", title="replicated")
        for lane in self._lanes:
            mib = lane.bytes_copied / MIB
            equal = f"{len(lane.problems)} differ" if lane.problems else "all equal"
            table.add_row(
                lane.title, str(len(lane.results)), f"{mib:.1f}", f"{lane.seconds:.1f}", f"{mib / lane.seconds:.0f}", lane.verified, equal
            )
        self._console.print(table)
        for lane in self._lanes:
            for problem in lane.problems:
                self._console.print(f"{lane.title}: {problem}", markup=False)
        self._console.print(f"Temporal Web UI: {self._temporal.ui_url}")
        if json_output:
            print(json.dumps({"routes": [_document(lane) for lane in self._lanes], "web_ui": self._temporal.ui_url}))

    async def stay(self) -> None:
        """Until Ctrl-C."""
        variables = " ".join(f"{name}={value}" for name, value in self.secrets.items())
        example = f"DRAYAGE_CONFIG={self.config} {variables} {sys.executable} starter.py"
        self._console.print("\nThe servers stay up until Ctrl-C. In another terminal, for instance:", markup=False)
        for command in ("status", "explain s3-to-gcs large/200-MiB.bin", "copy s3-to-s3 empty one-byte --wait"):
            self._console.print(f"  {example} {command}", markup=False, soft_wrap=True)
        for name, server in (("S3 one", self._first), ("S3 two", self._second), ("GCS", self._gcs)):
            self._console.print(f"{name}: {server.endpoint}", markup=False)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self._console.print("stopping")


def _place(store: str, bucket: str) -> dict[str, str]:
    return {"store": store, "bucket": bucket}


def _s3(server: SeaweedFS, variable: str) -> dict[str, Any]:
    return {
        "type": "s3",
        "endpoint": server.endpoint,
        "region": server.region,
        "access_key_id": f"env:{variable}_KEY",
        "secret_access_key": f"env:{variable}_SECRET",
    }


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield bars


async def _run_lane(client: Client, lane: Lane, bars: Progress, task: TaskID) -> None:
    queue = "drayage"
    lane.began = time.monotonic()
    handles = {sample.key: await start_object(client, queue, lane.name, sample.key, cause="demo") for sample in SAMPLES}
    async with _watched(handles, bars, task):
        results = await asyncio.gather(*(_settled(handle, lane, key) for key, handle in handles.items()))
    lane.seconds = time.monotonic() - lane.began
    lane.results.extend(results)
    lane.problems.extend(f"{r.key}: {r.outcome}, {r.reason}: {r.message}" for r in results if r.outcome != "copied")
    bars.update(task, completed=lane.bytes_copied)


async def _settled(handle: Handle, lane: Lane, key: str) -> ReplicateObjectResult:
    return await settled(handle, lane.name, key, interval_s=lambda: 2.0, unanswered=lambda: None)


@contextlib.asynccontextmanager
async def _watched(handles: dict[str, Handle], bars: Progress, task: TaskID) -> AsyncIterator[None]:
    """Moves the bar by what the large objects' workflows and running activities say."""
    large = [handles[sample.key] for sample in SAMPLES if sample.size_bytes > MIB]

    async def watch() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            bars.update(task, completed=sum(await asyncio.gather(*(_bytes_done(handle) for handle in large))))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _bytes_done(handle: Handle) -> int:
    """Finished runs, from the workflow; bytes of the runs under way, from the heartbeats of its activities."""
    try:
        progress = await read_progress(handle)
        pending = (await handle.describe()).raw_description.pending_activities
    except RPCError:
        return 0
    beats = [json.loads(activity.heartbeat_details.payloads[0].data) for activity in pending if activity.heartbeat_details.payloads]
    return progress.bytes_done + sum(int(beat.get("bytes_done", 0)) for beat in beats if isinstance(beat, dict))


def _check(lane: Lane) -> None:
    for sample in SAMPLES:
        if problem := _difference(lane.replicas, sample):
            lane.problems.append(problem)


def _difference(shelf: Shelf, sample: Sample) -> str | None:
    try:
        found = shelf.sha256(sample.key)
    except Exception as error:  # whatever a vendor's library raises, the object is not there as it should be
        return f"{sample.key}: cannot be read back: {error}"
    return None if found == sample.sha256 else f"{sample.key}: the replica's bytes differ"


def _document(lane: Lane) -> dict[str, Any]:
    return {
        "route": lane.name,
        "objects": len(lane.results),
        "bytes_copied": lane.bytes_copied,
        "seconds": round(lane.seconds, 3),
        "verification": lane.verified.split(),
        "problems": lane.problems,
    }
