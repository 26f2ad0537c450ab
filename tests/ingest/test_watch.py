"""Watched folders: what people do with files in them ends at the destination, by notifications and by polling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from embedded.seaweedfs import SeaweedFS
from ingest.dispatch import Dispatcher, Target
from ingest.watch import WatchIngestor
from replication.settings import Settings, parse_settings
from stores.registry import Stores
from tests.e2e.sides import S3Side
from tests.ingest.conftest import FAST
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url
from tests.poll import eventually, within

MODES = ("native", "poll")


@dataclass
class Rig:
    """Two routes, `one` and `two`, from folders of their own to prefixes of one bucket."""

    client: Client
    root: Path
    replica: S3Side
    settings: Settings
    stores: Stores

    @property
    def folder(self) -> Path:
        return self.root / "one"

    def ingestor(self, number: int = 0) -> WatchIngestor:
        watch = self.settings.ingest.watch[number]
        route = self.settings.route(watch.route)
        dispatcher = Dispatcher(self.client, self.settings.temporal.control_queue, pace=FAST, coalesce_s=0.2)
        return WatchIngestor(watch, route, self.root / route.source.bucket, self.stores, dispatcher, pace=FAST)

    @asynccontextmanager
    async def following(self, *numbers: int) -> AsyncIterator[list[WatchIngestor]]:
        stop, ingestors = asyncio.Event(), [self.ingestor(number) for number in numbers or (0,)]
        async with Lab(self.client, self.settings, self.stores).worker():
            tasks = [asyncio.create_task(ingestor.run(stop)) for ingestor in ingestors]
            try:
                yield ingestors
            finally:
                stop.set()
                await within(asyncio.gather(*tasks), 30)
                for ingestor in ingestors:
                    await ingestor.dispatcher.close()

    def replicas(self, route: str = "one") -> dict[str, str]:
        """Contents by the key below the route's prefix."""
        found, client = {}, self.replica.client
        for key in self.replica.keys():
            if key.startswith(f"{route}/"):
                with contextlib.suppress(client.exceptions.NoSuchKey):  # gone since it was listed
                    body = client.get_object(Bucket=self.replica.bucket, Key=key)["Body"].read()
                    found[key.removeprefix(f"{route}/")] = body.decode()
        return found

    async def ends_as(self, wanted: Callable[[], dict[str, str]], route: str = "one") -> None:
        async def equal() -> bool:
            return await asyncio.to_thread(self.replicas, route) == wanted()

        await eventually(equal, 40, interval_s=0.2)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def rig(temporal_client: Client, seaweed: SeaweedFS, tmp_path: Path, mode: str) -> AsyncIterator[Rig]:
    replica, token = S3Side("replica", seaweed), uuid.uuid4().hex[:12]
    root = tmp_path / "root"
    (root / "one").mkdir(parents=True)
    routes: list[dict[str, Any]] = [
        {
            "name": f"{name}-{token}",
            "source": {"store": "disk", "bucket": name},
            "destination": {"store": "replica", "bucket": replica.bucket, "prefix": f"{name}/"},
            "deletes": "mirror",
            "exclude": ["**/*.tmp"],
        }
        for name in ("one", "two")
    ]
    document = {
        "ledger": ledger_url(),
        "temporal": {"task_queue": f"q-{token}"},
        "stores": {"disk": {"type": "file", "root": str(root)}, "replica": replica.settings()},
        "routes": routes,
        "ingest": {"watch": [{"route": route["name"], "quiet": "300ms", "mode": mode, "interval": "200ms"} for route in routes]},
        "worker": {"retries": FAST_RETRIES, "control_slots": 8, "transfer_slots": 2, "streams": 2},
    }
    settings = parse_settings(document)
    stores = Stores(settings, replica.environ())
    yield Rig(temporal_client, root, replica, settings, stores)
    await stores.close()
    replica.close()


def contents(folder: Path) -> dict[str, str]:
    """Every regular file, as its owner sees it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and not path.name.startswith(".drayage")]
    return {str(path.relative_to(folder)): path.read_text() for path in paths if path.suffix != ".tmp"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_what_people_do_with_files_ends_at_the_destination(rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "drayage.ingest")
    folder = rig.folder
    write(folder / "there before.txt", "0")
    async with rig.following():
        await rig.ends_as(lambda: {"there before.txt": "0"})
        write(folder / "a", "1")
        write(folder / "new/deep/é + b.json", "{}")
        write(folder / "x.tmp", "never")
        os.symlink(folder / "a", folder / "link")
        os.mkfifo(folder / "pipe")
        await rig.ends_as(lambda: contents(folder))
        write(folder / "a", "2, longer")
        write(tmp_path / "aside/in/c", "moved in")
        shutil.move(tmp_path / "aside", folder / "aside")
        await rig.ends_as(lambda: contents(folder))
        os.rename(folder / "a", folder / "renamed")
        os.unlink(folder / "there before.txt")
        await rig.ends_as(lambda: contents(folder))
        shutil.rmtree(folder / "new")
        shutil.move(folder / "aside", tmp_path / "away")
        await rig.ends_as(lambda: {"renamed": "2, longer"})
    assert contents(folder) == {"renamed": "2, longer"}
    assert "skipped, symbolic link" in caplog.text


def swap(folder: Path, aside: Path) -> None:
    """A file becomes a directory, a directory a file, another directory another one, and a third file a link."""
    os.unlink(folder / "file")
    write(folder / "file/in", "below")
    shutil.move(folder / "dir", aside / "dir")
    write(folder / "dir", "a file")
    shutil.move(folder / "other", aside / "other")
    write(folder / "other/new", "new")
    os.unlink(folder / "linked")
    os.symlink(folder / "other", folder / "linked")


@pytest.mark.parametrize("followed", [True, False], ids=["while-it-runs", "while-it-is-down"])
async def test_names_that_become_something_else_leave_nothing_behind(rig: Rig, tmp_path: Path, followed: bool) -> None:
    aside, before = tmp_path / "aside", {"file": "1", "dir/x": "2", "dir/deep/y": "3", "other/old": "4", "linked": "5"}
    aside.mkdir()
    for name, text in before.items():
        write(rig.folder / name, text)

    async def left() -> bool:
        """SeaweedFS keeps an empty directory for some seconds, in which nothing can be stored by its name: `dir` may come later."""
        found = await asyncio.to_thread(rig.replicas)
        return {key: text for key, text in found.items() if key != "dir"} == {"file/in": "below", "other/new": "new"}

    async with rig.following():
        await rig.ends_as(lambda: before)
        if followed:
            swap(rig.folder, aside)
            await eventually(left, 40, interval_s=0.2)
    if not followed:
        swap(rig.folder, aside)
        async with rig.following():
            await eventually(left, 40, interval_s=0.2)
    assert await left()


async def test_a_renamed_file_is_stored_before_its_old_name_goes(rig: Rig) -> None:
    write(rig.folder / "old", "data")
    seen: list[set[str]] = []

    async def watch() -> None:
        """By one listing each: between a listing and a read there is time for both changes."""
        while True:
            keys = await asyncio.to_thread(rig.replica.keys)
            seen.append({key.removeprefix("one/") for key in keys})
            await asyncio.sleep(0.02)

    async with rig.following() as (ingestor,):
        await rig.ends_as(lambda: {"old": "data"})
        # Its workflow looks at the source once more, and would delete the replica by itself.
        await ingestor.dispatcher.settled([Target(rig.settings.routes[0].name, "old")], 60)
        watching = asyncio.create_task(watch())
        os.rename(rig.folder / "old", rig.folder / "new")
        await rig.ends_as(lambda: {"new": "data"})
        watching.cancel()
    assert set() not in seen
    assert {"new"} in seen or {"old", "new"} in seen


async def test_a_file_that_is_still_being_written_is_copied_once_and_whole(rig: Rig) -> None:
    lines = [f"line {number}\n" for number in range(15)]
    async with rig.following() as (ingestor,):
        with (rig.folder / "growing").open("w") as file:
            for line in lines:
                file.write(line)
                file.flush()
                await asyncio.sleep(0.1)  # the pace of the writer
                assert "growing" not in await asyncio.to_thread(rig.replicas)
        await rig.ends_as(lambda: {"growing": "".join(lines)})
    assert ingestor.counts["started"] == 1


async def test_a_root_that_is_missing_starts_nothing_and_stops_nobody(rig: Rig) -> None:
    write(rig.folder / "k", "1")
    async with rig.following(0, 1) as (_, missing):
        await rig.ends_as(lambda: {"k": "1"})
        assert missing.counts["compared"] == 0
        write(rig.root / "two/late", "2")
        await rig.ends_as(lambda: {"late": "2"}, "two")
        shutil.rmtree(rig.root / "two")  # as an unmounted disk: no deletion follows from it
        write(rig.folder / "k", "3")
        await rig.ends_as(lambda: {"k": "3"})
        assert await asyncio.to_thread(rig.replicas, "two") == {"late": "2"}


async def test_a_random_history_ends_equal_file_by_file(rig: Rig) -> None:
    dice, names = random.Random(5), [f"d{number % 5}/f{number}" for number in range(40)]
    async with rig.following():
        for number in range(500):
            path = rig.folder / dice.choice(names)
            if path.exists() and dice.random() < 0.3:
                os.unlink(path)
            elif path.exists() and dice.random() < 0.2:
                os.replace(path, rig.folder / f"moved{number % 7}")
            else:
                write(path, f"content {number}")
            if number % 50 == 0:
                await asyncio.sleep(0.2)  # so that some are started on the way
        await rig.ends_as(lambda: contents(rig.folder))
    assert len(contents(rig.folder)) > 10
