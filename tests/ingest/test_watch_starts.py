"""Watched folders: what is started when, by a dispatcher that tells of each start and decides when a workflow ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from ingest.dispatch import Dispatcher, Started, Target
from ingest.watch import WatchIngestor
from replication.settings import parse_settings
from stores.registry import Stores
from tests.ingest.conftest import FAST
from tests.poll import eventually


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
        await asyncio.wait_for(running, 10)
        await stores.close()


def is_started(workflows: Workflows, key: str, times: int = 1) -> Callable[[], bool]:
    return lambda: workflows.started.count(key) >= times


async def test_a_renamed_file_whose_copy_takes_long_keeps_nothing_else_from_being_started(tmp_path: Path) -> None:
    workflows = Workflows()
    async with following(tmp_path, workflows):
        (tmp_path / "in/old").write_text("large")
        await eventually(is_started(workflows, "old"))
        workflows.held.add("new")
        os.rename(tmp_path / "in/old", tmp_path / "in/new")
        await eventually(is_started(workflows, "new"))
        await eventually(lambda: "new" in workflows.waiting)
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
        (tmp_path / "in/old").write_text("large")
        await eventually(is_started(workflows, "old"))
        workflows.held.add("new")
        os.rename(tmp_path / "in/old", tmp_path / "in/new")
        await eventually(lambda: "new" in workflows.waiting)


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
