"""How bytes become a file: written beside it, synced, and given its name in one step if a condition holds."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from replication.errors import BucketNotFound, IntegrityMismatch, KeyCollision, PreconditionFailed, ServerFault
from replication.limits import MIB
from replication.models import Attributes, Checksums, Condition, ObjectInfo, Version
from stores import sidecar
from stores.beneath import bucket_directory, make_directories, mapped, prune, remove, rename_new, split_key, status, sync_directory
from stores.body import Body
from stores.chunks import Chunk
from stores.folders import Folders
from stores.keylock import locked
from stores.sidecar import Record

PIECE = MIB
"""Bytes that one call in a thread reads or writes: small enough to cancel soon, large enough to cost nothing."""
MAX_CHUNKS = 512
"""Buffers of one vectored write; the kernel takes 1,024."""
MAKE_ATTEMPTS = 10
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be published, and when. `on_step` is told each step that has been passed."""

    size_bytes: int
    crc32c: int
    attributes: Attributes
    condition: Condition
    on_step: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """An open temporary file and the name that it is to have. The descriptors belong to the caller."""

    folder: int
    temporary: bytes
    fd: int
    name: bytes
    key: str


def no_step(step: str) -> None:
    """The `on_step` of every store that is not being tested."""


def version_of(file: os.stat_result) -> Version:
    """What identifies a file's content: inode, size, and both times to the nanosecond.

    A change in place within one tick of the kernel's clock (1-10 ms) that keeps the size cannot be told."""
    modified = None
    with suppress(OverflowError, ValueError, OSError):
        modified = datetime.fromtimestamp(file.st_mtime, UTC)
    identity = f"{file.st_ino:x}-{file.st_size:x}-{file.st_mtime_ns:x}-{file.st_ctime_ns:x}"
    return Version(file.st_size, id=identity, modified=modified)


def check_condition(condition: Condition, there: os.stat_result | None, key: str) -> None:
    """`KeyCollision` where something else than a file stands, `PreconditionFailed` where the condition does not hold."""
    if there is not None and not stat.S_ISREG(there.st_mode):
        what = f"the directory {key + '/'!r}" if stat.S_ISDIR(there.st_mode) else "something that is not a regular file"
        raise KeyCollision(f"{key!r}: {what} stands there")
    if condition.kind == "absent" and there is not None:
        raise PreconditionFailed(f"{key!r} exists")
    if condition.kind == "match":
        wanted = condition.version.id if condition.version else ""
        if there is None or version_of(there).id != wanted:
            raise PreconditionFailed(f"{key!r} is {'absent' if there is None else 'another version'}")


async def batches(body: Body) -> AsyncIterator[list[Chunk]]:
    """The body in lists of chunks of about `PIECE` bytes; checked against the checksum that it announced."""
    batch: list[Chunk] = []
    size = 0
    async for chunk in body:
        batch.append(chunk)
        size += len(chunk)
        if size >= PIECE or len(batch) >= MAX_CHUNKS:
            yield batch
            batch, size = [], 0
    if body.known_crc32c is not None and body.digest.crc32c != body.known_crc32c:
        raise IntegrityMismatch(f"received CRC32C {body.digest.crc32c:08x}, announced {body.known_crc32c:08x}")
    if batch:
        yield batch


def write_at(fd: int, chunks: Sequence[Chunk], offset: int) -> int:
    """Writes all of `chunks` at `offset`; returns where they end."""
    end = offset + sum(map(len, chunks))
    offset += os.pwritev(fd, chunks, offset)
    while offset < end:  # a short write: a signal, or a disk that is full with the next call
        rest = b"".join(chunks)[offset - end :]
        offset += os.pwrite(fd, rest, offset)
    return end


def read_at(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`, or `IntegrityMismatch`."""
    data = os.pread(fd, length, offset) if length else b""
    while len(data) < length:
        piece = os.pread(fd, length - len(data), offset + len(data))
        if not piece:
            raise IntegrityMismatch(f"the file ended at byte {offset + len(data)}")
        data += piece
    return data


def create_beside(bucket: int, parents: list[bytes], temporary: bytes, key: str) -> tuple[int, int, int]:
    """A new file in the directory of `key`: (directory, file, how many directories were made).

    Repeated when a deletion prunes the directory between the two steps."""
    for _ in range(MAKE_ATTEMPTS):
        try:
            folder, made = make_directories(bucket, parents, key)
        except FileNotFoundError:
            continue
        try:
            return folder, os.open(temporary, CREATE, 0o666, dir_fd=folder), made
        except FileNotFoundError:
            os.close(folder)
        except BaseException:
            os.close(folder)
            raise
    raise ServerFault(f"{key!r}: its directory is removed as often as it is made")


def publish(bucket: int, file: Written, commit: Commit) -> ObjectInfo:
    """The temporary file becomes the object in one step, with its record, if the condition holds under the key's lock."""
    beside = prepare(file, commit)
    sync(file, commit)  # before the lock: under it, one file after the other would wait for the disk
    with locked(bucket, file.key):
        give_name(file, commit, beside)
    sync_directory(file.folder)
    return published(file, commit)


def prepare(file: Written, commit: Commit) -> Record | None:
    """Keeps the record in the file. Where it holds none, gives the record, which is to stand beside the object then."""
    on_disk = os.fstat(file.fd)
    if on_disk.st_size != commit.size_bytes:
        raise IntegrityMismatch(f"{file.key!r}: {on_disk.st_size} bytes reached the disk, expected {commit.size_bytes}")
    record = Record(on_disk.st_size, on_disk.st_mtime_ns, commit.crc32c, _stored(commit.attributes))
    if sidecar.save_within(file.fd, record, links=on_disk.st_nlink):
        return None
    sidecar.clear(file.fd)
    return record


def sync(file: Written, commit: Commit) -> None:
    os.fsync(file.fd)
    commit.on_step("synced")


def give_name(file: Written, commit: Commit, beside: Record | None) -> None:
    """To be called under the key's lock."""
    check_condition(commit.condition, status(file.folder, file.name), file.key)
    try:
        if beside is not None:
            sidecar.announce(file.folder, file.name, beside)
        commit.on_step("recorded")
        _rename(file, commit.condition)
    except BaseException:
        if beside is not None and status(file.folder, file.temporary) is not None:
            sidecar.withdraw(file.folder, file.name)
        raise
    commit.on_step("renamed")
    if beside is None:
        sidecar.forget(file.folder, file.name)
    else:
        sidecar.keep_announced(file.folder, file.name)


def published(file: Written, commit: Commit) -> ObjectInfo:
    """What is told of an object whose name is on the disk."""
    commit.on_step("published")
    return ObjectInfo(file.key, version_of(os.fstat(file.fd)), _stored(commit.attributes), Checksums(crc32c=commit.crc32c))


def _stored(attributes: Attributes) -> Attributes:
    return replace(attributes, tags=attributes.tags or {})


def _rename(file: Written, condition: Condition) -> None:
    """A creation that loses to another program fails here; where the file system cannot tell, the lock's promise remains."""
    try:
        if condition.kind == "absent" and rename_new(file.folder, file.temporary, file.name):
            return
    except FileExistsError as error:
        check_condition(condition, status(file.folder, file.name), file.key)
        raise PreconditionFailed(f"{file.key!r} existed for a moment") from error
    os.rename(file.temporary, file.name, src_dir_fd=file.folder, dst_dir_fd=file.folder)


class Incoming:
    """A temporary file on its way to a key. Every method runs in a thread; `discard` undoes whatever was reached."""

    def __init__(self, root: str, bucket: str, key: str, temporary: bytes, on_step: Callable[[str], None]) -> None:
        self._parents, self._name = split_key(key)
        self._root, self._temporary = root, temporary
        self._on_step = on_step
        self._folder = self._fd = -1
        self._borrowed = False
        self._made = self._end = 0
        self.bucket, self.key = bucket, key

    @property
    def file(self) -> Written:
        return Written(self._folder, self._temporary, self._fd, self._name, self.key)

    def open(self, folders: Folders) -> None:
        """Makes the file in a directory of `folders`, and makes that first if need be."""
        known = folders.known(self.bucket, self._parents)
        self._borrowed = True
        if known is not None:
            with suppress(FileNotFoundError):  # a deletion has pruned the directory
                self._fd = os.open(self._temporary, CREATE, 0o666, dir_fd=known)
                self._folder = known
                return
        folder, self._fd, self._made = create_beside(folders.bucket(self.bucket), self._parents, self._temporary, self.key)
        self._folder = folders.add(self.bucket, self._parents, folder)

    def keep_folder(self) -> None:
        """Goes on without the `Folders` that it was opened with."""
        if self._borrowed and self._folder >= 0:
            borrowed, self._folder = self._folder, -1
            with suppress(OSError):  # no descriptor is left: what lies there is found as any leftover of a crash
                self._folder = os.dup(borrowed)
        self._borrowed = False

    def write(self, chunks: Sequence[Chunk]) -> None:
        with mapped(self.key):
            if self._fd < 0:
                with bucket_directory(self._root, self.bucket) as bucket:
                    self._open_alone(bucket)
            self._end = write_at(self._fd, chunks, self._end)
        self._on_step("written")

    def publish(self, commit: Commit) -> ObjectInfo:
        with mapped(self.key), bucket_directory(self._root, self.bucket) as bucket:
            if self._fd < 0:
                self._open_alone(bucket)
            info = publish(bucket, self.file, commit)
            self.close()
            return info

    def discard(self) -> None:
        with suppress(OSError):
            if self._folder >= 0:
                remove(self._folder, self._temporary)
        self.close()
        if self._made:
            with suppress(BucketNotFound, OSError), bucket_directory(self._root, self.bucket) as bucket:
                prune(bucket, self._parents, self._made)

    def close(self) -> None:
        for fd in (self._fd, -1 if self._borrowed else self._folder):
            if fd >= 0:
                os.close(fd)
        self._fd = self._folder = -1

    def _open_alone(self, bucket: int) -> None:
        self._folder, self._fd, self._made = create_beside(bucket, self._parents, self._temporary, self.key)
