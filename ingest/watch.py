"""Changes in the directory that a route's source is, by the kernel's notifications or by polling.

Watching starts first, then everything is compared: every file below the prefix is looked at, and with `deletes: mirror` every
replica whose file is gone. That is done again when the kernel had to drop notifications. A file is started when it has been
still for the quiet period. What is seen is a hint as everywhere: the workflow looks at both sides itself, so a file that
vanishes or changes meanwhile is harmless.

Symbolic links, what is neither file nor directory, and names that are not UTF-8 are skipped with a line in the log. A root
that is missing, or was replaced, starts nothing: it is looked for until it is back, and then compared again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingest import metrics
from ingest.dispatch import Dispatcher, Target
from ingest.folder import Folder, RootGone
from ingest.inotify import Changes, WatchedTree, WatchLimit
from ingest.pace import Pace, pause, unless_stopped
from ingest.quiet import Look, Pending, QuietFiles
from replication.errors import ObjectError
from replication.ingest_settings import WatchSettings
from replication.routes import Route
from service.health import Report, silent
from stores.registry import Stores

log = logging.getLogger("drayage.ingest")

MAX_PENDING = 10_000
"""Files that wait for their quiet period; the first comparison waits while there are more."""
STARTS = 500
"""Starts that are asked for together."""
WAITS = 200
"""Workflows whose end is waited for at once."""
TICK_S = 0.1
SETTLED_S = 600.0
"""How long the old name of a renamed file waits for the new one to be stored."""
GONE_S = 30.0
"""How long a file waits for the deletion of what stands in its way: a `hold`, or a stop of deletions, may take days."""
COLLECT_S = 0.1
"""What the kernel tells within that time is looked at once."""


@dataclass
class WatchIngestor:
    """One route, whose source is the bucket `folder` of a file store. `counts` tells what happened since the start."""

    settings: WatchSettings
    route: Route
    folder: Path
    stores: Stores
    dispatcher: Dispatcher
    pace: Pace = field(default_factory=Pace)
    report: Report = silent
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._quiet = QuietFiles(self.settings.quiet)
        self._ending: asyncio.Queue[tuple[Pending, float]] = asyncio.Queue()
        self._source = Folder(self.folder, self.route)
        self._changes, self._changed = Changes(), asyncio.Event()
        self._polling = self.settings.mode == "poll" or (self.settings.mode == "auto" and self._source.is_silent())

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. Whatever fails is logged and tried again, so that no route stops another."""
        failures = 0
        while not stop.is_set():
            began = time.monotonic()
            try:
                await self._follow(stop)
            except (OSError, ObjectError) as error:
                log.error("watch of %s: %s", self.folder, error, extra={"route": self.route.name})
                self.report(False, str(error))
                if isinstance(error, WatchLimit):
                    log.error("%s is polled instead", self.folder, extra={"route": self.route.name})
                    self._polling = True
            except Exception as error:
                log.exception("watch of %s: a defect", self.folder, extra={"route": self.route.name})
                self.report(False, repr(error))
            failures = 1 if time.monotonic() - began > self.pace.longest_pause_s else failures + 1
            await pause(stop, self.pace.pause_s(failures))
        log.info("watch of %s: stopped; %s", self.folder, dict(self.counts), extra={"route": self.route.name})

    async def _follow(self, stop: asyncio.Event) -> None:
        """Watches, compares everything, and starts what is due, until `stop` is set. The first failure ends all and is raised."""
        identity = self._source.identity()
        compare, ended = asyncio.Event(), asyncio.Event()
        self._ending = asyncio.Queue()  # what was under way when the last run failed is pending again
        self._quiet.give_back()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._poll(compare, ended) if self._polling else self._watch(compare, ended))
                beside = [tasks.create_task(self._compare_each_time(compare, ended)), tasks.create_task(self._note_changes())]
                beside += [tasks.create_task(self._await_ends()) for _ in range(WAITS)]
                await self._start_due(stop, identity)
                for task in beside:
                    task.cancel()
                ended.set()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            ended.set()

    # --- what changed ------------------------------------------------------------------------------------------------

    async def _watch(self, compare: asyncio.Event, ended: asyncio.Event) -> None:
        """Takes what the kernel tells, until `ended` is set. `compare` is set once everything is watched, and again whenever
        the kernel dropped something."""
        while not ended.is_set():
            tree = WatchedTree(str(self.folder), lambda path, why: self._source.skip(path, f"cannot be read ({why})"))
            try:
                await asyncio.to_thread(tree.add_all)
                compare.set()
                await self._read(tree, ended)
            finally:
                tree.close()

    async def _read(self, tree: WatchedTree, ended: asyncio.Event) -> None:
        """Returns when `ended` is set, or when something was dropped."""
        while not ended.is_set():
            await unless_stopped(_readable(tree.fd), ended)
            await pause(ended, COLLECT_S)
            changes = await asyncio.to_thread(tree.read)
            self._received(len(changes))
            self._changes.add(changes)
            self._changed.set()
            if changes.missed:
                self.counts["overflows"] += 1
                log.warning(
                    "watch of %s: the kernel dropped changes (fs.inotify.max_queued_events); everything is compared again",
                    self.folder,
                    extra={"route": self.route.name},
                )
                return

    async def _note_changes(self) -> None:
        """Beside the reading, for a look at what was removed asks the destination, and the kernel's queue is short."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, Changes()
            await self._note(changes)

    async def _poll(self, compare: asyncio.Event, ended: asyncio.Event) -> None:
        """Notes what differs from the last round."""
        known = await asyncio.to_thread(lambda: dict(self._source.files(str(self.folder))))
        compare.set()
        while not ended.is_set():
            await pause(ended, self.settings.interval)
            now = await asyncio.to_thread(lambda: dict(self._source.files(str(self.folder))))
            touched = {path for path in known.keys() | now.keys() if known.get(path) != now.get(path)}
            self._received(len(touched))
            await self._note(Changes(touched & now.keys(), touched - now.keys()))
            known = now

    def _received(self, count: int) -> None:
        self.counts["received"] += count
        metrics.received("watch", count)

    async def _note(self, changes: Changes) -> None:
        """Takes a look at everything that a batch of changes names; directories stand for all that is in them. A name that was
        removed may be another file's or directory's by now: what it stood for before is gone all the same."""
        now, present, gone = self.clock(), set[str](), list[tuple[str, bool]]()
        keys = {path: key for path in sorted(changes.appeared | changes.removed) if (key := self._source.key_of(path)) is not None}
        for path, found in (await self._source.looks({path: path for path in keys})).items():
            key = keys[path]
            if isinstance(found, Look):
                self._quiet.note(key, found, now)
                present.add(key)
            elif found == "folder" and path in changes.appeared:
                present |= await self._note_folder(path)
            if found == "gone" or path in changes.removed:
                gone.append((key, path in changes.folders))
        await self._note_gone(dict(gone), frozenset(present))

    async def _note_folder(self, path: str) -> set[str]:
        """A directory that appeared may hold files that nobody told of."""
        found: set[str] = set()
        for file, look in await asyncio.to_thread(lambda: list(self._source.files(path))):
            key = self._source.key_of(file)
            if key is not None:
                self._quiet.note(key, look, self.clock())
                found.add(key)
        return found

    async def _note_gone(self, folders: Mapping[str, bool], after: frozenset[str]) -> None:
        """Names that are gone, and whether each was a directory: only the destination knows what was in it. It is not asked for
        each file: there may be many."""
        await self._note_lost(folders, after)
        if self.route.settings.deletes_mode == "mirror":
            for folder in (key for key, was_folder in folders.items() if was_folder):
                async for below in self._replicas(folder + "/"):
                    await self._note_lost(below, after)

    async def _note_lost(self, keys: Iterable[str], after: frozenset[str] = frozenset()) -> None:
        """Notes those that the folder does not hold any more. Where a directory took a file's place, or a file a directory's, what
        is new waits: at a destination with directories, what is gone stands in its way."""
        mirror = self.route.settings.deletes_mode == "mirror"
        lost = await asyncio.to_thread(
            lambda: {key: self._source.heirs(key) if mirror else {} for key in keys if not self._source.holds(key)}
        )
        for key, heirs in lost.items():
            self._quiet.note(key, None, self.clock(), after=None if heirs else after)
            for heir, look in heirs.items():
                self._quiet.note(heir, look, self.clock(), after=frozenset({key}))

    # --- the comparison of everything ----------------------------------------------------------------------------------

    async def _compare_each_time(self, compare: asyncio.Event, ended: asyncio.Event) -> None:
        while True:
            await compare.wait()
            compare.clear()
            await self._compare(ended)

    async def _compare(self, ended: asyncio.Event) -> None:
        location, store = self.route.source, self.stores.get(self.route.source.store)
        async for page in store.list_objects(location.bucket, location.prefix):
            await self._room(ended)
            keys = [item.key for item in page if not item.problem and self.route.skip_reason(item.key) is None]
            for key, found in (await self._source.looks({key: str(self.folder / key) for key in keys})).items():
                if isinstance(found, Look):
                    still = self.wall_clock() - found.modified_ns / 1e9
                    self._quiet.note(key, found, self.clock(), still_for_s=still)
        if self.route.settings.deletes_mode == "mirror":
            async for keys in self._replicas(location.prefix):
                await self._room(ended)
                await self._note_lost(keys)
        self.counts["compared"] += 1
        self.report(True, "")
        log.info("watch of %s: compared", self.folder, extra={"route": self.route.name})

    async def _replicas(self, prefix: str) -> AsyncIterator[list[str]]:
        """Pages of the source keys of the objects at the destination whose key starts with `prefix`."""
        location, whole = self.route.destination, self.route.source.prefix
        if whole.startswith(prefix):
            prefix = whole
        elif not prefix.startswith(whole):
            return
        pages = self.stores.get(location.store).list_objects(location.bucket, self.route.destination_key(prefix))
        async for page in pages:
            keys = [self.route.source_key(item.key) for item in page if not item.problem]
            yield [key for key in keys if self.route.skip_reason(key) is None]

    async def _room(self, ended: asyncio.Event) -> None:
        while len(self._quiet) >= MAX_PENDING and not ended.is_set():
            await pause(ended, TICK_S)

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start_due(self, stop: asyncio.Event, identity: tuple[int, int]) -> None:
        while not stop.is_set():
            if await asyncio.to_thread(self._source.identity) != identity:
                raise RootGone(f"{self.folder} is another directory now")
            due = self._quiet.due(self.clock())[:STARTS]
            if due:
                await self._start(await self._still(due), stop)
            else:
                await pause(stop, TICK_S)

    async def _still(self, due: list[Pending]) -> list[Pending]:
        """The files that are as they were; the time of the others begins anew."""
        still, looks = list[Pending](), await self._source.looks({pending.key: str(self.folder / pending.key) for pending in due})
        for pending in due:
            found = looks[pending.key]
            now = found if isinstance(found, Look) else None
            if now == pending.look:
                still.append(pending)
            else:
                self._quiet.note(pending.key, now, self.clock())
        return still

    async def _start(self, due: list[Pending], stop: asyncio.Event) -> None:
        """Starts files as they are. Those that others wait for are under way until their workflow ends."""
        taken = {Target(self.route.name, pending.key, self.wall_clock()): pending for pending in self._quiet.take(due)}
        started = await self.dispatcher.deliver(taken, stop)
        self.counts["started"] += len(taken) - len(started.unavailable) - len(started.refused)
        awaited = self._quiet.awaited()
        for pending in (taken[target] for target in taken if target not in started.unavailable):
            if pending.key in awaited:
                longest_s = GONE_S if pending.look is None else SETTLED_S
                self._ending.put_nowait((pending, self.clock() + longest_s))
            else:
                self._quiet.done(pending)

    async def _await_ends(self) -> None:
        """One of many that wait for workflows, beside the starts: one may copy for hours."""
        while True:
            pending, until = await self._ending.get()
            await self.dispatcher.settled([Target(self.route.name, pending.key)], until - self.clock())
            self._quiet.done(pending)


async def _readable(fd: int) -> None:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(fd, told.set)
    try:
        await told.wait()
    finally:
        loop.remove_reader(fd)
