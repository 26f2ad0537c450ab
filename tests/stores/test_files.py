"""What only a file system can do wrong: links, pipes, full disks, crashes, and names that lead elsewhere."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replication.errors import (
    BucketNotFound,
    DrayageError,
    IntegrityMismatch,
    KeyCollision,
    KeyInvalid,
    KeyUnrepresentable,
    NoSpace,
    ObjectNotFound,
    PreconditionFailed,
    ServerFault,
    SourceChanged,
    StoreTimeout,
    UploadLost,
)
from replication.models import ABSENT, ANY, Attributes, Condition, Part
from stores import beneath, journal, keylock, sidecar
from stores.beneath import mapped, open_directory, rename_new, split_key
from stores.body import Body
from stores.checksum import combine_crc32c, crc32c
from stores.files import FileStore
from stores.walk import walk
from tests.poll import within
from tests.stores.keys import ODD_KEYS, TRAVERSALS

CRASH = 42


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "bucket").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FileStore]:
    store = FileStore("files", root=root)
    yield store
    await store.close()


async def put(store: FileStore, key: str, data: bytes, attributes: Attributes | None = None) -> str:
    return (await store.put("bucket", key, Body.of(data), attributes or Attributes(), ANY)).version.id


async def get(store: FileStore, key: str) -> bytes:
    info = await store.head("bucket", key)
    async with store.read("bucket", key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def keys(store: FileStore, prefix: str = "") -> list[str]:
    return [entry.key async for page in store.list_objects("bucket", prefix) for entry in page]


def leftovers(root: Path) -> list[str]:
    """This product's own files, the lock aside."""
    return [path.name for path in root.rglob(".drayage.*") if path.name != ".drayage.lock"]


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def change(path: Path | bytes, data: bytes, *, at: int | None = None) -> None:
    """Writes into a file behind the store's back: at a place, or at its end."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if at is None else 0), 0o644)
    os.pwrite(fd, data, at or 0)
    os.close(fd)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, modification time and content of everything below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# --- nothing leaves the root -------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root with a canary, under every name that the traversals aim at."""
    for folder in (tmp_path, tmp_path / "outside"):
        folder.mkdir(exist_ok=True)
        (folder / "canary").write_bytes(b"untouched")
    return tmp_path / "outside"


@pytest.mark.parametrize("key", TRAVERSALS)
async def test_a_key_that_would_leave_the_bucket_is_refused_by_every_call(store: FileStore, root: Path, outside: Path, key: str) -> None:
    before = snapshot(root.parent)
    version = (await store.put("bucket", "here", Body.of(b"x"), Attributes(), ANY)).version
    (root / "bucket" / "here").unlink()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put("bucket", key, Body.of(b"evil"), Attributes(), ANY),
        lambda: store.head("bucket", key),
        lambda: store.delete("bucket", key, version),
        lambda: store.begin_upload("bucket", key, Attributes()),
        lambda: store.update_attributes("bucket", key, version, Attributes()),
        lambda: store.abort_upload("bucket", key + "/x", "0" * 32),
    ]
    for call in calls:
        with pytest.raises((KeyUnrepresentable, KeyInvalid)):
            await call()
    (root / "bucket" / ".drayage.lock").unlink()
    assert snapshot(root.parent) == before


@pytest.mark.parametrize("bucket", ["..", ".", "", "bucket/..", "/", "../outside", "a\0b", ".drayage.x"])
async def test_a_bucket_name_that_would_leave_the_root_names_no_bucket(store: FileStore, outside: Path, bucket: str) -> None:
    with pytest.raises(BucketNotFound):
        await store.head(bucket, "canary")


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from("./\0\\"), max_size=40))
def test_the_path_of_any_accepted_key_is_the_key(key: str) -> None:
    try:
        parents, name = split_key(key)
    except (KeyUnrepresentable, KeyInvalid):
        return
    segments = [*parents, name]
    assert b"/".join(segments).decode() == key
    assert all(segment not in (b"", b".", b"..") and b"/" not in segment and b"\0" not in segment for segment in segments)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab./\\ \n~%é"), min_size=1, max_size=12))
def test_whatever_the_key_says_the_bytes_stay_beneath_the_bucket(root: Path, key: str) -> None:
    async def once() -> None:
        store = FileStore("files", root=root)
        try:
            await put(store, key, b"bytes")
        except DrayageError:
            pass
        else:
            assert (root / "bucket" / key).read_bytes() == b"bytes"
            assert await keys(store) == [key]
            await store.delete("bucket", key, (await store.head("bucket", key)).version)
        finally:
            await store.close()

    asyncio.run(once())
    assert [path.name for path in root.parent.iterdir()] == ["root"]
    assert [path.name for path in root.iterdir()] == ["bucket"]
    assert {path.name for path in (root / "bucket").iterdir()} <= {".drayage.lock"}


async def test_planted_links_are_never_followed(store: FileStore, root: Path, outside: Path) -> None:
    (root / "bucket" / "folder").symlink_to(outside)
    (root / "bucket" / "file").symlink_to(outside / "canary")
    (root / "linked-bucket").symlink_to(outside)
    before = snapshot(outside)
    for key in ("folder/canary", "file"):
        with pytest.raises(ObjectNotFound):
            await store.head("bucket", key)
    for key in ("folder/canary", "folder/new", "file"):
        with pytest.raises(KeyCollision):
            await put(store, key, b"evil")
        with pytest.raises(KeyCollision):
            await store.put("bucket", key, Body.of(b"evil"), Attributes(), ABSENT)
    with pytest.raises(BucketNotFound):
        await store.head("linked-bucket", "canary")
    assert await keys(store) == []
    assert await keys(store, "folder/") == []
    assert snapshot(outside) == before
    assert leftovers(root) == []


async def test_pipes_sockets_and_devices_are_no_objects_and_block_nobody(store: FileStore, root: Path) -> None:
    os.mkfifo(root / "bucket" / "pipe")
    folder = os.open(root / "bucket", os.O_RDONLY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{folder}/socket")  # a socket's address has 108 bytes, the folder's path may be longer
    listener.close()
    os.close(folder)
    for key in ("pipe", "socket"):
        with pytest.raises(ObjectNotFound):
            await within(store.head("bucket", key), 5)
        with pytest.raises(KeyCollision):
            await put(store, key, b"x")
    assert await keys(store) == []


@contextmanager
def attacked(bucket: Path, outside: Path) -> Iterator[list[int]]:
    """A thread that swaps the directory `d` for a link to the outside and back, each in one step; counts its swaps."""
    (bucket / "link").symlink_to(outside)
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = ctypes.c_int(-100), ctypes.c_uint(2)  # AT_FDCWD, RENAME_EXCHANGE
    names = os.fsencode(bucket / "d"), os.fsencode(bucket / "link")
    stop, swaps = threading.Event(), [0]

    def attack() -> None:
        while not stop.is_set():
            swaps[0] += libc.renameat2(here, names[0], here, names[1], exchange) == 0

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        yield swaps
    finally:
        stop.set()
        attacker.join()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_directory_swapped_for_a_link_never_leads_outside(root: Path, outside: Path, atomic: bool) -> None:
    (root / "bucket" / "d" / "sub").mkdir(parents=True)
    (outside / "sub").mkdir()
    forbidden = {(outside / "sub").stat().st_ino, outside.stat().st_ino}
    arrived = refused = 0
    bucket = os.open(root / "bucket", os.O_RDONLY)
    with attacked(root / "bucket", outside) as swaps:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                fd = open_directory(bucket, [b"d", b"sub"], atomic=atomic)
            except OSError:
                refused += 1
                continue
            arrived += 1
            assert os.fstat(fd).st_ino not in forbidden
            os.close(fd)
    os.close(bucket)
    assert arrived > 0, "the walk never arrived: nothing was proved"
    assert refused > 0, "the attacker was never in the way: nothing was proved"
    assert swaps[0] > 1000


async def test_writes_during_a_link_swap_leave_the_outside_alone(store: FileStore, root: Path, outside: Path) -> None:
    (root / "bucket" / "d").mkdir()
    before = snapshot(outside)
    outcomes: set[str] = set()
    with attacked(root / "bucket", outside) as swaps:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                await put(store, "d/canary", b"evil")
                outcomes.add("written")
            except KeyCollision:
                outcomes.add("refused")
    assert outcomes == {"written", "refused"}, "one side never had its way: nothing was proved"
    assert swaps[0] > 1000
    assert snapshot(outside) == before


# --- what stands in the way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["double-slash", "leading-slash", "trailing-slash", "dot-dot", "component-256", "reserved-name"])
async def test_what_a_path_cannot_say_is_refused_before_anything_is_written(store: FileStore, root: Path, name: str) -> None:
    with pytest.raises(KeyUnrepresentable):
        await put(store, ODD_KEYS[name], b"x")
    assert list((root / "bucket").iterdir()) == []


async def test_an_empty_directory_in_the_way_is_a_collision_and_stays(store: FileStore, root: Path) -> None:
    (root / "bucket" / "folder").mkdir()
    for condition in (ANY, ABSENT):
        with pytest.raises(KeyCollision, match="'folder/'"):
            await store.put("bucket", "folder", Body.of(b"x"), Attributes(), condition)
    assert (root / "bucket" / "folder").is_dir()
    assert leftovers(root) == []


async def test_deleting_removes_the_directories_that_it_empties_and_no_others(store: FileStore, root: Path) -> None:
    (root / "bucket" / "a" / "empty-before").mkdir(parents=True)
    await put(store, "a/b/c/d", b"x")
    await store.delete("bucket", "a/b/c/d", (await store.head("bucket", "a/b/c/d")).version)
    assert [path.name for path in (root / "bucket" / "a").iterdir()] == ["empty-before"]
    assert (root / "bucket").is_dir()


async def test_a_failed_write_removes_the_directories_that_it_made(store: FileStore, root: Path) -> None:
    (root / "bucket" / "there").mkdir()

    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        yield b"y"
        raise SourceChanged("cut")

    with pytest.raises(SourceChanged):
        await store.put("bucket", "there/new/deep/key", Body(cut(), 3 << 20), Attributes(), ABSENT)
    assert everything(root) == ["bucket", "bucket/there"]


async def test_names_that_are_not_utf8_are_listed_escaped_and_with_a_problem(store: FileStore, root: Path) -> None:
    bucket = os.fsencode(root / "bucket")
    (root / "bucket" / "bay").write_bytes(b"x")
    (root / "bucket" / "good").write_bytes(b"x")
    change(bucket + b"/bad\xfe", b"three")
    change(bucket + b"/.drayage.\xfe", b"ours")
    os.symlink(b"good", bucket + b"/link\xfe")
    os.mkdir(bucket + b"/deep\xff")
    change(bucket + b"/deep\xff/below", b"")
    listed = [entry async for page in store.list_objects("bucket", page_size=2) for entry in page]
    assert [(entry.key, entry.version.size_bytes, bool(entry.problem)) for entry in listed] == [
        ("bad\\xfe", 5, True), ("bay", 1, False), ("deep\\xff/", 0, True), ("good", 1, False),
    ]  # fmt: skip
    assert await keys(store, "bad") == ["bad\\xfe"]
    assert [entry.key async for page in store.list_objects("bucket", start_after="bay") for entry in page] == ["deep\\xff/", "good"]


async def test_a_name_that_reads_like_an_escaped_one_stays_what_it_is(
    store: FileStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "bucket" / "bad\\xfe").write_bytes(b"real")
    change(os.fsencode(root / "bucket") + b"/bad\xfe", b"")
    ((entry,),) = [page async for page in store.list_objects("bucket")]
    assert (entry.key, entry.version.size_bytes, entry.problem) == ("bad\\xfe", 4, "")
    assert "1 names" in caplog.text


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EIO, ServerFault), (errno.ESTALE, ServerFault), (errno.ENOSPC, NoSpace), (errno.ENAMETOOLONG, KeyUnrepresentable)],
)
def test_what_the_kernel_says_becomes_an_error_with_a_rest(number: int, error: type[DrayageError]) -> None:
    with pytest.raises(error), mapped("key"):
        raise OSError(number, "as the kernel says")


# --- versions, reading, attributes -------------------------------------------------------------------------------------


async def test_a_file_changed_in_place_while_it_is_read_is_a_changed_source(store: FileStore, root: Path) -> None:
    await put(store, "key", b"a" * (3 << 20))
    info = await store.head("bucket", "key")
    received = 0
    with pytest.raises(SourceChanged):  # noqa: PT012  (the change comes between two chunks)
        async with store.read("bucket", "key", pin=info.version, offset=0, length=info.size_bytes) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                change(root / "bucket" / "key", b"changed", at=2 << 20)
    assert received < info.size_bytes


async def test_a_file_edited_by_hand_loses_checksum_and_metadata(store: FileStore, root: Path) -> None:
    await put(store, "key.txt", b"ours", Attributes(content_type="x/y", metadata={"drayage-route": "photos"}))
    assert (await store.head("bucket", "key.txt")).checksums.crc32c == crc32c(b"ours")
    (root / "bucket" / "key.txt").write_bytes(b"hand")
    os.utime(root / "bucket" / "key.txt", ns=(1, 1))
    info = await store.head("bucket", "key.txt")
    assert (info.checksums.crc32c, info.attributes.metadata, info.attributes.content_type) == (None, {}, "text/plain")


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"a.csv", "text/csv"), (b"a.csv.gz", "application/gzip"), (b"a.tar.xz", "application/octet-stream"), (b"a", ""), (b".png", "")],
)
def test_the_type_of_a_foreign_file_is_that_of_its_extension(name: bytes, expected: str) -> None:
    assert sidecar.guess_type(name) == expected


async def test_attributes_too_long_for_the_file_live_beside_it_unseen(store: FileStore, root: Path) -> None:
    long = Attributes(metadata={"long": "x" * 59_000})
    before = os.open(root / "bucket", os.O_RDONLY)
    try:
        fits = _xattr_fits(root / "bucket", 59_500)
    finally:
        os.close(before)
    await put(store, "d/key", b"x", long)
    assert (await store.head("bucket", "d/key")).attributes.metadata == long.metadata
    assert await keys(store) == ["d/key"]
    assert bool(leftovers(root)) != fits
    await put(store, "d/key", b"y", Attributes(metadata={"short": "1"}))
    assert (await store.head("bucket", "d/key")).attributes.metadata == {"short": "1"}
    assert leftovers(root) == []
    await store.delete("bucket", "d/key", (await store.head("bucket", "d/key")).version)
    assert list((root / "bucket").iterdir()) == [root / "bucket" / ".drayage.lock"]


def _xattr_fits(folder: Path, size: int) -> bool:
    probe = folder / "probe"
    probe.write_bytes(b"")
    try:
        os.setxattr(probe, "user.drayage", b"x" * size)
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


async def test_a_file_with_a_second_name_gets_a_sidecar(store: FileStore, root: Path, outside: Path) -> None:
    """An extended attribute belongs to the inode: it would change a file that is not ours."""
    os.link(outside / "canary", root / "bucket" / "key")
    version = (await store.head("bucket", "key")).version
    await store.update_attributes("bucket", "key", version, Attributes(metadata={"a": "1"}))
    assert (await store.head("bucket", "key")).attributes.metadata == {"a": "1"}
    assert os.listxattr(outside / "canary") == []
    assert len(leftovers(root)) == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"size_bytes":1}', b'{"size_bytes":1,"mtime_ns":1,"crc32c":"x","attributes":{}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":1,"attributes":{"metadata":[1]}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":1,"attributes":{"metadata":{"a":1}}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":1,"attributes":{"content_type":7}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":-1,"attributes":{}}', b'{"size_bytes":1,"mtime_ns":1,"crc32c":4294967296,"attributes":{}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":true,"attributes":{}}',
     b'{"size_bytes":1,"mtime_ns":1,"crc32c":1,"attributes":{"metadata":{"a":"\\ud800"}}}',
     b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_a_record_that_we_did_not_write_is_no_record(text: bytes) -> None:
    assert sidecar.Record.decode(text) is None


async def test_what_a_listing_passes_over_is_in_the_log(store: FileStore, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "bucket" / "d"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    (folder / "link").symlink_to("file")
    (folder / "away").symlink_to("/")
    os.mkfifo(folder / "pipe")
    assert [entry.key async for page in store.list_objects("bucket") for entry in page] == ["d/file"]
    assert "3 names in 'd/' are symbolic links or no regular files" in caplog.text


async def test_bytes_that_rotted_on_the_disk_are_not_copied(store: FileStore, root: Path) -> None:
    await put(store, "source", b"good bytes")
    path = root / "bucket" / "source"
    times = path.stat()
    path.write_bytes(b"bad  bytes")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    info = await store.head("bucket", "source")
    with pytest.raises(IntegrityMismatch):
        await store.copy("bucket", "source", info.version, "bucket", "copy", Attributes(), ABSENT)
    assert await keys(store) == ["source"]


# --- uploads -----------------------------------------------------------------------------------------------------------


async def test_a_torn_journal_line_costs_its_own_part_only(store: FileStore, root: Path) -> None:
    upload = await store.begin_upload("bucket", "d/key", Attributes())
    await store.put_part("bucket", "d/key", upload, 1, 0, Body.of(b"one"))
    change(root / "bucket" / "d" / journal.journal_name(upload).decode(), b'\n{"number":2,"offs')
    await store.put_part("bucket", "d/key", upload, 3, 6, Body.of(b"three"))
    assert [part.number for part in await store.list_parts("bucket", "d/key", upload)] == [1, 3]
    await store.put_part("bucket", "d/key", upload, 2, 3, Body.of(b"two"))
    parts = await store.list_parts("bucket", "d/key", upload)
    await store.complete_upload("bucket", "d/key", upload, parts, Attributes(), ABSENT, crc32c=crc32c(b"onetwothree"))
    assert await get(store, "d/key") == b"onetwothree"
    assert leftovers(root) == []


async def test_a_line_that_a_full_disk_cuts_short_is_told(store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, write = await store.begin_upload("bucket", "key", Attributes()), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:-3]))
        with pytest.raises(NoSpace):
            await store.put_part("bucket", "key", upload, 1, 0, Body.of(b"one"))
    part = await store.put_part("bucket", "key", upload, 1, 0, Body.of(b"one"))
    await store.complete_upload("bucket", "key", upload, [part], Attributes(), ABSENT, crc32c=crc32c(b"one"))
    assert await get(store, "key") == b"one"


def test_a_line_after_a_torn_one_is_read() -> None:
    started, part = datetime(2026, 1, 1, tzinfo=UTC), Part(1, 3, f"{7:08x}", 7)
    text = journal.opening("key", started) + b'\n{"number":2,"offs' + journal.finished(part, 0)
    assert journal.parse(text) == journal.Journal("key", started, {1: journal.StoredPart(part, 0)})
    assert journal.parse(b'\n{"key":"ke') is None
    foreign = [b'{"key":"k"}', b'{"key":"k","started":1e300}', b'{"number":[1]}', b'{"number":1,"crc32c":1}', b"[" * 100_000, b"\0" * 9]
    assert journal.parse(b"\n".join([text, *foreign])) == journal.parse(text)


async def test_a_part_whose_replacement_failed_is_no_longer_whole(store: FileStore) -> None:
    upload = await store.begin_upload("bucket", "key", Attributes())
    await store.put_part("bucket", "key", upload, 1, 0, Body.of(b"whole"))

    async def cut() -> AsyncIterator[bytes]:
        yield b"ha"
        raise SourceChanged("cut")

    with pytest.raises(SourceChanged):
        await store.put_part("bucket", "key", upload, 1, 0, Body(cut(), 5))
    assert await store.list_parts("bucket", "key", upload) == []


@pytest.mark.parametrize("parts", [[1, 3], [2, 1, 3], [1, 1], [1, 2, 3, 4]])
async def test_parts_that_do_not_stand_end_to_end_are_not_published(store: FileStore, parts: list[int]) -> None:
    upload = await store.begin_upload("bucket", "key", Attributes())
    sent = {n: await store.put_part("bucket", "key", upload, n, (n - 1) * 3, Body.of(b"abc")) for n in (1, 2, 3)}
    named = [sent.get(n, Part(n, 3, "00000000")) for n in parts]
    with pytest.raises(IntegrityMismatch):
        await store.complete_upload("bucket", "key", upload, named, Attributes(), ABSENT, crc32c=None)
    assert await keys(store) == []


async def test_no_part_is_written_into_an_object_that_was_published(store: FileStore) -> None:
    """A zombie that opened the upload keeps completion away; once it is complete, a zombie finds no upload."""
    upload = await store.begin_upload("bucket", "key", Attributes())
    part = await store.put_part("bucket", "key", upload, 1, 0, Body.of(b"abc"))
    writing, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * (1 << 20)
        yield b"y" * (1 << 20)
        writing.set()
        await go_on.wait()
        yield b"z"

    zombie = asyncio.create_task(store.put_part("bucket", "key", upload, 2, 3, Body(slow(), (2 << 20) + 1)))
    await writing.wait()
    with pytest.raises(ServerFault):
        await store.complete_upload("bucket", "key", upload, [part], Attributes(), ABSENT, crc32c=None)
    go_on.set()
    await zombie
    await store.complete_upload("bucket", "key", upload, [part], Attributes(), ABSENT, crc32c=crc32c(b"abc"))
    with pytest.raises(UploadLost):
        await store.put_part("bucket", "key", upload, 2, 3, Body.of(b"late"))
    assert await get(store, "key") == b"abc"


@pytest.mark.parametrize("upload_id", ["", "../x", "0" * 31, "0" * 33, "A" * 32, "/" * 32, "0" * 31 + "\n"])
async def test_an_id_that_the_store_did_not_give_out_touches_no_file(store: FileStore, upload_id: str) -> None:
    with pytest.raises(UploadLost):
        await store.list_parts("bucket", "key", upload_id)
    await store.abort_upload("bucket", "key", upload_id)


async def test_a_write_cut_short_by_a_crash_is_found_and_removed(store: FileStore, root: Path) -> None:
    (root / "bucket" / "d").mkdir()
    (root / "bucket" / "d" / f".drayage.{'a' * 32}.tmp").write_bytes(b"half")
    found = [upload async for upload in store.list_uploads("bucket")]
    assert [(upload.key, upload.upload_id) for upload in found] == [(f"d/.drayage.{'a' * 32}.tmp", "a" * 32)]
    await store.abort_upload("bucket", found[0].key, found[0].upload_id)
    assert [upload async for upload in store.list_uploads("bucket")] == []
    assert leftovers(root) == []


# --- crashes -----------------------------------------------------------------------------------------------------------

STEPS = ["written", "synced", "recorded", "renamed", "published"]

CRASHING_PUT = f"""
import asyncio, os, sys
from pathlib import Path
from types import SimpleNamespace
from replication.models import ABSENT, ANY, Attributes
from stores import sidecar
from stores.body import Body
from stores.files import FileStore

if sys.argv[4] == "beside":
    sidecar.save_within = lambda fd, record, links: False

def crash(step):
    if step == sys.argv[2]:
        os._exit({CRASH})

async def main():
    store = FileStore("files", root=Path(sys.argv[1]), on_step=crash)
    await store.put("bucket", "d/key", Body.of(b"new" * 1000), Attributes(metadata={{"v": "new"}}), ANY if sys.argv[3] == "any" else ABSENT)

asyncio.run(main())
"""


@pytest.mark.parametrize("record", ["within", "beside"])
@pytest.mark.parametrize("condition", ["any", "absent"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_leaves_the_old_object_whole_or_the_new_one(
    store: FileStore, root: Path, step: str, condition: str, record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if record == "beside":
        monkeypatch.setattr(sidecar, "save_within", lambda fd, record, links: False)
    if condition == "any":
        await put(store, "d/key", b"old", Attributes(metadata={"v": "old"}))
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CRASHING_PUT, str(root), step, condition, record], cwd=Path.cwd(), check=False
    )
    assert ended.returncode == CRASH, "the crash did not happen: nothing was proved"

    if step in ("renamed", "published"):
        assert await get(store, "d/key") == b"new" * 1000
        info = await store.head("bucket", "d/key")
        assert (info.attributes.metadata, info.checksums.crc32c) == ({"v": "new"}, crc32c(b"new" * 1000))
    elif condition == "any":
        assert await get(store, "d/key") == b"old"
        assert (await store.head("bucket", "d/key")).attributes.metadata == {"v": "old"}
    else:
        assert await keys(store) == []
    for upload in [upload async for upload in store.list_uploads("bucket")]:
        await store.abort_upload("bucket", upload.key, upload.upload_id)
    assert record == "beside" or leftovers(root) == []
    await put(store, "d/key", b"after the crash")
    assert await get(store, "d/key") == b"after the crash"
    await store.delete("bucket", "d/key", (await store.head("bucket", "d/key")).version)
    assert leftovers(root) == []


@pytest.mark.parametrize("record", ["within", "beside"])
@pytest.mark.parametrize("step", STEPS[1:])
async def test_an_error_before_the_rename_leaves_nothing_of_the_write(
    root: Path, step: str, record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if record == "beside":
        monkeypatch.setattr(sidecar, "save_within", lambda fd, record, links: False)

    def fail(passed: str) -> None:
        if passed == step:
            raise OSError(errno.EIO, "injected")

    store = FileStore("files", root=root, on_step=fail)
    with pytest.raises(ServerFault):
        await store.put("bucket", "d/key", Body.of(b"x"), Attributes(), ABSENT)
    visible = ["d/key"] if step in ("renamed", "published") else []
    assert await keys(store) == visible
    assert (record == "beside" and visible) or leftovers(root) == []
    await store.close()


async def test_a_cancelled_call_unwinds_only_when_its_thread_has_ended(root: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold(step: str) -> None:
        if step == "synced":
            arrived.set()
            go_on.wait(30)

    store = FileStore("files", root=root, on_step=hold)
    task = asyncio.create_task(store.put("bucket", "d/key", Body.of(b"x"), Attributes(), ABSENT))
    await asyncio.to_thread(arrived.wait, 30)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done, "the call unwound while its thread could still rename"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys(store) == ["d/key"]  # the commit had begun: it ended before the call did
    assert leftovers(root) == []
    await store.close()


# --- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_file", [False, True], ids=["byte-of-the-key", "whole-file"])
async def test_a_write_waits_for_the_lock_of_its_own_key(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, whole_file: bool
) -> None:
    """The lock of another process: open file description locks are held by descriptors. Without them, one key waits for another."""
    if whole_file:
        monkeypatch.setattr(keylock, "sys", SimpleNamespace(platform="elsewhere"))
    folder = os.open(root / "bucket", os.O_RDONLY)
    try:
        with keylock.locked(folder, "d/key"):
            same = asyncio.create_task(put(store, "d/key", b"x"))
            other = asyncio.create_task(put(store, "other", b"x"))
            done, _ = await asyncio.wait([same, other], timeout=0.5)
            assert done == (set() if whole_file else {other})
        await asyncio.gather(same, other)
    finally:
        os.close(folder)


def test_names_that_a_file_system_may_take_for_one_have_one_lock() -> None:
    assert keylock.lock_of("Stra\u00dfe/A") == keylock.lock_of("STRASSE/a") != keylock.lock_of("Strasse/b")
    assert keylock.lock_of("e\u0301") == keylock.lock_of("\u00e9")


async def test_a_lock_that_is_never_given_back_is_told(store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keylock, "PATIENCE_S", 0.05)
    folder = os.open(root / "bucket", os.O_RDONLY)
    try:
        with keylock.locked(folder, "k"), pytest.raises(StoreTimeout, match="lock of 'k'"):
            await put(store, "k", b"x")
    finally:
        os.close(folder)
    assert leftovers(root) == []


async def test_a_store_that_is_closed_leaves_no_lock_file(root: Path) -> None:
    for changes in (lambda store: put(store, "k", b"x"), lambda store: store.probe("bucket", writable=True)):
        store = FileStore("files", root=root)
        (root / "bucket" / ".drayage.lock").touch()  # as a process that was killed leaves it
        await changes(store)
        await store.close()
        assert not (root / "bucket" / ".drayage.lock").exists()


@pytest.mark.parametrize("whole_file", [False, True], ids=["byte-of-the-key", "whole-file"])
def test_the_lock_file_stays_while_a_lock_is_held(root: Path, monkeypatch: pytest.MonkeyPatch, whole_file: bool) -> None:
    if whole_file:
        monkeypatch.setattr(keylock, "sys", SimpleNamespace(platform="elsewhere"))
    folder = os.open(root / "bucket", os.O_RDONLY)
    try:
        keylock.tidy(folder)
        with keylock.locked(folder, "k"):
            keylock.tidy(folder)
            assert (root / "bucket" / ".drayage.lock").exists()
        keylock.tidy(folder)
        assert not (root / "bucket" / ".drayage.lock").exists()
    finally:
        os.close(folder)


@pytest.mark.parametrize("whole_file", [False, True], ids=["byte-of-the-key", "whole-file"])
def test_a_key_has_one_holder_while_lock_files_come_and_go(root: Path, monkeypatch: pytest.MonkeyPatch, whole_file: bool) -> None:
    if whole_file:
        monkeypatch.setattr(keylock, "sys", SimpleNamespace(platform="elsewhere"))
    folder = os.open(root / "bucket", os.O_RDONLY)
    holders, most, gone, stands = 0, 0, 0, keylock._stands

    def counted(bucket: int, file: os.stat_result) -> bool:
        nonlocal gone
        found = stands(bucket, file)
        gone += not found
        return found

    def hold(_: int) -> None:
        nonlocal holders, most
        for _ in range(100):
            with keylock.locked(folder, "k"):
                holders += 1
                most = max(most, holders)
                time.sleep(0)
                holders -= 1
            keylock.tidy(folder)

    monkeypatch.setattr(keylock, "_stands", counted)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(hold, range(8)))
    finally:
        os.close(folder)
    assert most == 1
    assert gone, "no lock file was removed under somebody who had opened it"


# --- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    root = tmp_path / "tiny"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], capture_output=True, check=False)
    if mounted.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("mounting a tmpfs is refused")
        pytest.skip("mounting a tmpfs is refused here: this test needs root")
    (root / "bucket").mkdir()
    yield root
    subprocess.run(["umount", str(root)], check=True)


async def test_a_full_disk_leaves_the_old_object_and_no_temporary_file(tiny: Path) -> None:
    store = FileStore("files", root=tiny)
    await put(store, "key", b"old" * 1000)
    with pytest.raises(NoSpace):
        await put(store, "key", b"n" * (2 << 20))
    with pytest.raises(NoSpace):
        await put(store, "new/key", b"n" * (2 << 20))
    assert await get(store, "key") == b"old" * 1000
    assert leftovers(tiny) == []
    assert await keys(store) == ["key"]
    await put(store, "other", b"x" * 1000)
    assert await get(store, "other") == b"x" * 1000
    await store.close()


async def test_a_full_disk_keeps_the_record_that_has_no_room_for_another(tiny: Path) -> None:
    store = FileStore("files", root=tiny)
    await put(store, "key", b"x", Attributes(metadata={"mark": "old"}))
    os.link(tiny / "bucket" / "key", tiny / "bucket" / "second name")  # so that the next record has to stand beside
    (tiny / "bucket" / "filler").write_bytes(b"f" * shutil.disk_usage(tiny).free)
    before = await store.head("bucket", "key")
    with pytest.raises(NoSpace):
        await store.update_attributes("bucket", "key", before.version, Attributes(metadata={"mark": "new"}))
    assert (await store.head("bucket", "key")).attributes.metadata == {"mark": "old"}
    await store.close()


async def test_a_full_disk_fails_the_part_and_leaves_the_others(tiny: Path) -> None:
    store = FileStore("files", root=tiny)
    upload = await store.begin_upload("bucket", "key", Attributes())
    part = await store.put_part("bucket", "key", upload, 1, 0, Body.of(b"a" * 1000))
    with pytest.raises(NoSpace):
        await store.put_part("bucket", "key", upload, 2, 1000, Body.of(b"b" * (2 << 20)))
    assert await store.list_parts("bucket", "key", upload) == [part]
    await store.abort_upload("bucket", "key", upload)
    await put(store, "key", b"x" * 500_000)
    await store.close()


# --- fences between stores of one root ---------------------------------------------------------------------------------


async def test_of_two_stores_that_replace_one_version_exactly_one_wins(root: Path) -> None:
    one, two = FileStore("one", root=root), FileStore("two", root=root)
    for _ in range(20):
        await put(one, "key", b"base")
        here = Condition.match((await one.head("bucket", "key")).version)
        results = await asyncio.gather(
            *(store.put("bucket", "key", Body.of(store.name.encode()), Attributes(), here) for store in (one, two)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["ObjectInfo", "PreconditionFailed"]
    await asyncio.gather(one.close(), two.close())


async def test_deletions_and_creations_in_one_directory_do_not_disturb_each_other(store: FileStore) -> None:
    async def churn(n: int) -> None:
        for _ in range(15):
            info = await store.put("bucket", f"d/e/{n}", Body.of(b"x"), Attributes(), ABSENT)
            await store.delete("bucket", f"d/e/{n}", info.version)

    await asyncio.gather(*(churn(n) for n in range(6)))
    assert await keys(store) == []


def test_a_creation_never_replaces_even_where_the_kernel_lacks_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel cannot be had here, so its answer is put in the library's place."""

    class OldKernel:
        pass

    monkeypatch.setattr(beneath, "_libc", OldKernel())
    for name in ("new", "there"):
        (tmp_path / name).write_text(name)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            rename_new(folder, b"new", b"there")
        assert rename_new(folder, b"new", b"free")
    finally:
        os.close(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "there"]
    assert (tmp_path / "there").read_text() == "there"


# --- listings ----------------------------------------------------------------------------------------------------------

SEGMENT = st.text(st.sampled_from("ab-.0é\U00010000"), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), max_size=12),
    st.text(st.sampled_from("ab-./é"), max_size=4),
    st.text(st.sampled_from("ab-./é"), max_size=4),
)
def test_a_walk_is_the_sorted_selection_of_the_keys(tmp_path: Path, names: list[str], prefix: str, after: str) -> None:
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    (tmp_path / "b").mkdir()
    held = set()
    for name in names:
        try:
            (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "b" / name).touch()
            held.add(name)
        except OSError:  # `a` and `a/b`
            continue
    held = {name for name in held if (tmp_path / "b" / name).is_file()}
    folder = os.open(tmp_path / "b", os.O_RDONLY)
    try:
        found = [entry.key for entry in walk(folder, prefix, after)]
    finally:
        os.close(folder)
    assert found == sorted((name for name in held if name.startswith(prefix) and name.encode() > after.encode()), key=str.encode)


async def test_an_abandoned_listing_keeps_no_directory_open(store: FileStore) -> None:
    for n in range(6):
        await put(store, f"a/b/{n}", b"x")
    before = len(os.listdir("/proc/self/fd"))
    pages = store.list_objects("bucket", page_size=2)
    assert len(await anext(pages)) == 2
    await pages.aclose()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


async def test_no_call_leaves_a_descriptor_open(store: FileStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for n in range(5):
        await put(store, "d/key", b"x" * n)
        await get(store, "d/key") if n else None
        upload = await store.begin_upload("bucket", "d/key", Attributes())
        part = await store.put_part("bucket", "d/key", upload, 1, 0, Body.of(b"x"))
        with pytest.raises(PreconditionFailed):
            await store.complete_upload("bucket", "d/key", upload, [part], Attributes(), ABSENT, crc32c=None)
        await store.abort_upload("bucket", "d/key", upload)
        with pytest.raises(KeyCollision):
            await put(store, "d/key/below", b"x")
        with pytest.raises(ObjectNotFound):
            await store.head("bucket", "d/other")
        await store.probe("bucket", writable=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_checksum_of_the_whole_comes_from_those_of_the_parts() -> None:
    assert combine_crc32c([(crc32c(b"one"), 3), (crc32c(b"two"), 3)]) == crc32c(b"onetwo")
