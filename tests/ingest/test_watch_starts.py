"""Watched folders: what is started when, by a dispatcher that tells of each start and decides when a workflow ends."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from ingest.dispatch import Dispatcher, Started, Target
from ingest.folder import Folder
from ingest.watch import WatchIngestor
from replication.settings import parse_settings
from stores.registry import Stores
from tests.ingest.conftest import FAST
from tests.poll import eventually, within


class Workflows:
    """Stands in for the dispatcher. The workflow of a key that is held does not end; `waiting` has those that are waited for."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.held: set[str] = set()
        self.waiting: set[str] = set()
        self.failure: Exception | None = None

    async def deliver(self, targets: Iterable[Target], stop: asyncio.Event) -> Started:
        self.started += [target.key for target in targets]
        if self.failure:
            raise self.failure
        return Started()

    async def settled(self, targets: Iterable[Target], timeout_s: float) -> None:
        keys = {target.key for target in targets}
        self.waiting |= keys
        while keys & self.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.waiting -= keys


@asynccontextmanager
async def following(root: Path, workflows: Workflows, **watch: Any) -> AsyncIterator[WatchIngestor]:
    """Follows `root/in`. The end of it takes no longer than seconds."""
    (root / "in").mkdir(exist_ok=True)
    (root / "out").mkdir(exist_ok=True)
    document = {
        "stores": {"disk": {"type": "file", "root": str(root)}},
        "routes": [
            {
                "name": "r",
                "source": {"store": "disk", "bucket": "in"},
                "destination": {"store": "disk", "bucket": "out"},
                "deletes": "mirror",
            }
        ],
        "ingest": {"watch": [{"route": "r", "quiet": "100ms", "interval": "100ms", **watch}]},
    }
    settings = parse_settings(document)
    stores, stop = Stores(settings, {}), asyncio.Event()
    dispatcher = cast(Dispatcher, workflows)
    ingestor = WatchIngestor(settings.ingest.watch[0], settings.route("r"), root / "in", stores, dispatcher, pace=FAST)
    running = asyncio.create_task(ingestor.run(stop))
    try:
        await eventually(lambda: ingestor.counts["compared"])
        yield ingestor
    finally:
        stop.set()
        await within(running, 10)
        await stores.close()


def is_started(workflows: Workflows, key: str, times: int = 1) -> Callable[[], bool]:
    return lambda: workflows.started.count(key) >= times


async def rename(folder: Path, workflows: Workflows) -> None:
    """`old` becomes `new`, whose copy does not end until it is no longer held."""
    (folder / "old").write_text("large")
    await eventually(is_started(workflows, "old"))
    workflows.held.add("new")
    os.rename(folder / "old", folder / "new")
    await eventually(lambda: "new" in workflows.waiting)


async def test_a_renamed_file_whose_copy_takes_long_keeps_nothing_else_from_being_started(tmp_path: Path) -> None:
    workflows = Workflows()
    async with following(tmp_path, workflows):
        await rename(tmp_path / "in", workflows)
        (tmp_path / "in/other").write_text("small")
        await eventually(is_started(workflows, "other"))
        assert workflows.started.count("old") == 1
        (tmp_path / "in/new").write_text("larger")
        await eventually(is_started(workflows, "new", 2))
        assert workflows.started.count("old") == 1
        workflows.held.clear()
        await eventually(is_started(workflows, "old", 2))


async def test_a_stop_does_not_wait_for_the_copy_of_a_renamed_file(tmp_path: Path) -> None:
    workflows = Workflows()
    async with following(tmp_path, workflows):
        await rename(tmp_path / "in", workflows)
    assert workflows.held == {"new"}, "its copy has not ended yet"
    assert workflows.started == ["old", "new"]


async def test_what_was_under_way_when_the_watch_failed_is_started_again(tmp_path: Path) -> None:
    workflows = Workflows()
    async with following(tmp_path, workflows) as ingestor:
        (tmp_path / "in/k").write_text("1")
        await eventually(is_started(workflows, "k"))
        workflows.failure = OSError("a failure of the moment")
        os.unlink(tmp_path / "in/k")  # which has no replica, so that no comparison finds it
        await eventually(is_started(workflows, "k", 2))
        workflows.failure = None
        await eventually(lambda: ingestor.counts["compared"] >= 2)
        await eventually(is_started(workflows, "k", 3))
    assert set(workflows.started) == {"k"}


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def fill_the_queue(folder: Path) -> None:
    """More events than the kernel holds, while the event loop stands still and nobody reads them."""
    pair = folder / "one", folder / "other"
    for path in pair:
        path.touch()
    for _ in range(int(QUEUE.read_text()) // 2 + 1):
        for path in pair:  # by turns: the kernel makes one of two that are the same
            os.utime(path)


async def test_everything_is_compared_again_when_the_kernel_dropped_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workflows, folder = Workflows(), tmp_path / "in"
    for path in (folder / "gone", tmp_path / "out/gone"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    async with following(tmp_path, workflows, mode="native") as ingestor:
        await eventually(is_started(workflows, "gone"))
        fill_the_queue(folder)
        (folder / "new/deep").mkdir(parents=True)
        (folder / "new/deep/k").touch()
        os.unlink(folder / "gone")
        await eventually(is_started(workflows, "new/deep/k"))
        await eventually(is_started(workflows, "gone", 2))
        assert ingestor.counts["overflows"] == 1
        (folder / "new/deep/later").touch()
        await eventually(is_started(workflows, "new/deep/later"))
    assert "fs.inotify.max_queued_events" in caplog.text


async def test_files_of_a_directory_that_is_being_made_are_all_started(tmp_path: Path) -> None:
    workflows, rounds = Workflows(), 400

    def make() -> set[str]:
        keys = set()
        for number in range(rounds):
            deep = f"d{number}/" + "/".join("abcd"[: number % 5])
            (tmp_path / "in" / deep).mkdir(parents=True)
            for name in ("x", "y"):
                (tmp_path / "in" / deep / name).write_text("1")
                keys.add(os.path.join(deep, name))
        return keys

    async with following(tmp_path, workflows, mode="native") as ingestor:
        keys = await asyncio.to_thread(make)
        await eventually(lambda: keys <= set(workflows.started), 20)
        assert ingestor.counts["compared"] == 1


@pytest.mark.parametrize("mode", ["native", "poll"])
async def test_names_that_are_not_utf8_are_skipped_and_keep_nobody_from_being_started(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drayage.ingest")
    workflows, folder = Workflows(), os.fsencode(tmp_path / "in")
    async with following(tmp_path, workflows, mode=mode) as ingestor:
        os.makedirs(folder + b"/deep\xff")
        for name in (b"/bad\xff", b"/deep\xff/below", b"/good"):
            os.mknod(folder + name)
        await eventually(is_started(workflows, "good"))
        os.unlink(folder + b"/bad\xff")
        os.rename(folder + b"/deep\xff", folder + b"/moved")
        await eventually(is_started(workflows, "moved/below"))
        os.mknod(folder + b"/last")
        await eventually(is_started(workflows, "last"))
        assert ingestor.counts["compared"] == 1
    assert workflows.started == ["good", "moved/below", "last"]
    assert "skipped, the name is not UTF-8" in caplog.text


async def test_the_destination_is_asked_for_what_a_directory_held_and_not_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows, folder, asked = Workflows(), tmp_path / "in", list[str]()
    for path in (folder, tmp_path / "out"):
        (path / "d").mkdir(parents=True)
        for name in ["d/x", *map(str, range(100))]:
            (path / name).touch()
    async with following(tmp_path, workflows, mode="native") as ingestor:
        await eventually(lambda: len(workflows.started) == 101)
        store = ingestor.stores.get("disk")
        listed = store.list_objects

        def list_objects(bucket: str, prefix: str = "") -> AsyncIterator[Any]:
            asked.append(prefix)
            return listed(bucket, prefix)

        monkeypatch.setattr(store, "list_objects", list_objects)
        shutil.move(folder / "d", tmp_path / "away")
        for number in range(100):
            os.unlink(folder / str(number))
        await eventually(lambda: len(workflows.started) >= 202)
    assert asked == ["d/"]


async def test_files_that_change_together_are_looked_at_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a thread gives the event loop away, and gets it back when all others had their turn."""
    workflows, folder, to_thread, waits = Workflows(), tmp_path / "in", asyncio.to_thread, list[Any]()

    async def counting(work: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(work, "__func__", work) is not Folder.identity:  # which goes by the time that passes
            waits.append(work)
        return await to_thread(work, *arguments)

    async with following(tmp_path, workflows, mode="native") as ingestor:
        for number in range(200):
            (folder / f"old{number}").touch()
        await eventually(lambda: len(workflows.started) >= 200)
        monkeypatch.setattr(asyncio, "to_thread", counting)
        for number in range(200):
            os.rename(folder / f"old{number}", folder / f"new{number}")
        await eventually(lambda: len(workflows.started) >= 600)
        assert ingestor.counts["received"] >= 600
    assert len(waits) < 200


async def test_a_directory_that_takes_a_files_place_twice_waits_for_nothing_that_waits_for_it(tmp_path: Path) -> None:
    """The first time it is gone again before it is looked into, as if nothing had taken the place."""
    workflows, folder = Workflows(), tmp_path / "in"
    async with following(tmp_path, workflows, mode="native", quiet="1s") as ingestor:
        await ingestor._note_lost(["d"], frozenset({"d/x"}))
        (folder / "d").mkdir()
        (folder / "d/x").touch()
        await ingestor._note_lost(["d"], frozenset({"d/x"}))
        await eventually(is_started(workflows, "d/x"))
    assert workflows.started == ["d", "d/x"]
