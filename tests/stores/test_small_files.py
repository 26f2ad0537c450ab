"""Small files that are written and read many at a time: each keeps its own outcome, and all of them what a single one is promised."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from replication.errors import KeyCollision, ObjectNotFound, PreconditionFailed, ServerFault, SourceChanged
from replication.models import ABSENT, ANY, Attributes, Condition, ObjectInfo, Version
from stores import beneath, crew, files, keylock, smallfiles
from stores.body import Body
from stores.files import FileStore
from tests.stores.test_files import CRASH, get, keys, leftovers, put

TOGETHER = 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path


class Held:
    """A store with one thread for small writes, whose first write waits: what is asked for meanwhile is done together."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "HANDS", 1)
        monkeypatch.setattr(crew, "MOMENT_S", 3600.0)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.steps: list[str] = []
        self.then: Callable[[list[str]], None] = lambda steps: None
        self.store = FileStore("files", root=root, on_step=self._passed)

    def _passed(self, step: str) -> None:
        self.steps.append(step)
        self.then(self.steps)
        if len(self.steps) == 1:
            self.begun.set()
            assert self.go_on.wait(30)

    async def write(self, wanted: Sequence[tuple[str, Condition]]) -> list[ObjectInfo | BaseException]:
        first = asyncio.create_task(put(self.store, "first", b"first"))
        assert await asyncio.to_thread(self.begun.wait, 30)
        rest = [asyncio.create_task(self.store.put("bucket", key, Body.of(key.encode()), Attributes(), how)) for key, how in wanted]
        await asyncio.sleep(0)
        self.go_on.set()
        outcomes = await asyncio.gather(*rest, return_exceptions=True)
        await first
        del self.steps[: self.steps.index("published") + 1]
        return outcomes


async def test_steps_are_made_for_all_and_each_directory_is_synced_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(root, monkeypatch)
    synced: list[str] = []
    monkeypatch.setattr(smallfiles, "sync_directory", lambda folder: synced.append(os.readlink(f"/proc/self/fd/{folder}")))
    wanted = [(f"{'ab'[number % 2]}/{number}", ABSENT) for number in range(TOGETHER)]
    outcomes = await held.write(wanted)
    assert (
        held.steps
        == [step for step in ("written", "synced") for _ in wanted] + ["recorded", "renamed"] * TOGETHER + ["published"] * TOGETHER
    )
    assert sorted(synced[1:]) == [str(root / "bucket" / "a"), str(root / "bucket" / "b")], "the first write's own aside"
    for (key, _), outcome in zip(wanted, outcomes, strict=True):
        assert isinstance(outcome, ObjectInfo)
        assert outcome == await held.store.head("bucket", key)
        assert await get(held.store, key) == key.encode()
    assert leftovers(root) == []
    await held.store.close()


async def test_each_has_its_own_outcome(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "bucket" / "there").write_bytes(b"as it was")
    (root / "bucket" / "folder").mkdir()
    (root / "bucket" / "folder" / "x").touch()
    held = Held(root, monkeypatch)
    wanted = [("a", ABSENT), ("there", ABSENT), ("folder", ANY), ("there/below", ANY), ("new/b", ABSENT), ("new/b", ABSENT), ("c", ANY)]
    outcomes = await held.write(wanted)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ObjectInfo, PreconditionFailed, KeyCollision, KeyCollision, ObjectInfo, PreconditionFailed, ObjectInfo]
    assert await keys(held.store) == ["a", "c", "first", "folder/x", "new/b", "there"]
    assert await get(held.store, "there") == b"as it was"
    assert leftovers(root) == []
    await held.store.close()


async def test_who_waits_for_a_lock_waits_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(root, monkeypatch)
    others = threading.Event()
    held.then = lambda steps: others.set() if steps.count("published") == 4 else None
    folder = os.open(root / "bucket", os.O_RDONLY)
    try:
        with keylock.locked(folder, "busy"):
            writing = asyncio.create_task(held.write([("a", ABSENT), ("d/busy", ABSENT), ("busy", ABSENT), ("b", ABSENT)]))
            assert await asyncio.to_thread(others.wait, 30)
            assert await keys(held.store) == ["a", "b", "d/busy", "first"]
            assert not writing.done()
        assert all(isinstance(outcome, ObjectInfo) for outcome in await writing)
    finally:
        os.close(folder)
    assert await get(held.store, "busy") == b"busy"
    assert leftovers(root) == []
    await held.store.close()


async def test_a_directory_that_cannot_be_synced_fails_all_names_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(root, monkeypatch)

    def sync(folder: int) -> None:
        if os.readlink(f"/proc/self/fd/{folder}").endswith("/bad"):
            raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(smallfiles, "sync_directory", sync)
    outcomes = await held.write([("bad/1", ABSENT), ("good/1", ABSENT), ("bad/2", ABSENT)])
    assert [type(outcome) for outcome in outcomes] == [ServerFault, ObjectInfo, ServerFault]
    assert leftovers(root) == []
    await held.store.close()


async def test_a_directory_that_is_pruned_between_two_of_them_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(root, monkeypatch)

    def prune(steps: list[str]) -> None:
        if steps.count("written") == 2 and (root / "bucket" / "d").exists():
            shutil.rmtree(root / "bucket" / "d")
            held.then = lambda steps: None

    held.then = prune
    outcomes = await held.write([("d/1", ABSENT), ("d/2", ABSENT), ("d/3", ABSENT)])
    assert [type(outcome) for outcome in outcomes] == [ServerFault, ObjectInfo, ObjectInfo]
    assert await keys(held.store, "d/") == ["d/2", "d/3"]
    assert leftovers(root) == []
    await held.store.close()


async def test_reads_of_many_tell_each_what_it_is(root: Path) -> None:
    store = FileStore("files", root=root)
    pins: dict[str, Version] = {}
    for number in range(TOGETHER):
        await put(store, f"{number % 3}/{number}", b"%d" % number, Attributes(metadata={"n": str(number)}))
    async for page in store.list_objects("bucket"):
        pins |= {entry.key: entry.version for entry in page}
    (root / "bucket" / "1" / "4").write_bytes(b"changed since")
    (root / "bucket" / "2" / "5").unlink()
    reads = await asyncio.gather(*(store.fetch("bucket", key, pin=pin) for key, pin in pins.items()), return_exceptions=True)
    for key, read in zip(pins, reads, strict=True):
        if key in ("1/4", "2/5"):
            assert isinstance(read, SourceChanged)
        else:
            assert not isinstance(read, BaseException)
            assert (read[0].attributes.metadata["n"], read[1]) == (key[2:], key[2:].encode())
    await store.close()


CRASHING_PUTS = f"""
import asyncio, os, sys, threading
from pathlib import Path
from replication.models import ABSENT, Attributes
from stores import crew, files
from stores.body import Body
from stores.files import FileStore

files.HANDS, crew.MOMENT_S = 1, 3600.0
passed, go_on = [], threading.Event()

def crash(step):
    passed.append(step)
    if len(passed) == 1:
        go_on.wait(30)
    if step == sys.argv[2] and passed.count(step) == 1 + {TOGETHER // 2}:
        os._exit({CRASH})

async def main():
    store = FileStore("files", root=Path(sys.argv[1]), on_step=crash)
    keys = ["first"] + [f"d{{number % 2}}/{{number}}" for number in range({TOGETHER})]
    writing = [asyncio.create_task(store.put("bucket", key, Body.of(key.encode() * 1000), Attributes(), ABSENT)) for key in keys[:1]]
    while not passed:
        await asyncio.sleep(0.001)
    writing += [asyncio.create_task(store.put("bucket", key, Body.of(key.encode() * 1000), Attributes(), ABSENT)) for key in keys[1:]]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*writing)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "named"), [("written", 0), ("synced", 0), ("recorded", TOGETHER // 2 - 1), ("renamed", TOGETHER // 2), ("published", TOGETHER)]
)
async def test_a_crash_among_many_leaves_each_whole_or_absent(root: Path, step: str, named: int) -> None:
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", CRASHING_PUTS, str(root), step], cwd=Path.cwd(), check=False)
    assert ended.returncode == CRASH, "the crash did not happen: nothing was proved"
    store = FileStore("files", root=root)
    found = await keys(store)
    assert len(found) == 1 + named
    for key in found:
        assert await get(store, key) == key.encode() * 1000
    for upload in [upload async for upload in store.list_uploads("bucket")]:
        await store.abort_upload("bucket", upload.key, upload.upload_id)
    assert leftovers(root) == []
    await store.close()


async def test_files_that_are_looked_at_together_are_told_each_for_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(root, monkeypatch)
    written = [f"{'ab'[number % 2]}/{number}" for number in range(TOGETHER)]
    held.go_on.set()
    for key in written:
        await put(held.store, key, key.encode())
    (root / "bucket" / "folder").mkdir()
    absent = ["c/0", "folder", "a", "a/0/x"]
    opened: list[bytes] = []

    def open_directory(bucket: int, parents: list[bytes]) -> int:
        opened.append(b"/".join(parents))
        return beneath.open_directory(bucket, parents)

    monkeypatch.setattr("stores.folders.open_directory", open_directory)
    seen = await asyncio.gather(*(held.store.head("bucket", key) for key in [*written, *absent]), return_exceptions=True)
    assert [info.key for info in seen if isinstance(info, ObjectInfo)] == written
    assert [type(error) for error in seen[TOGETHER:]] == [ObjectNotFound] * len(absent)
    assert opened.count(b"a") <= 2
    assert opened.count(b"b") <= 2
    await held.store.close()
