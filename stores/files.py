"""A file system as a store: a bucket is a directory under the root, an object a file, its key the path.

Nothing is ever written in place. Bytes go to a temporary file in the target's directory and are synced before the
file gets its name, so that a reader, or a crash at any point, finds the old object whole or the new one whole.
Conditions are checked and files renamed under one lock of the bucket: they bind everybody who uses this store, while
other programs are bound only where the kernel can do it (a creation never replaces). Parent directories are made as
needed, and removed again when a deletion empties them; directories that were empty before stay.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import ParamSpec, TypeVar

from replication.errors import IntegrityMismatch, MetadataUnrepresentable, ObjectError, ObjectNotFound, PreconditionFailed
from replication.limits import FILE_LIMITS, Capabilities
from replication.models import Attributes, Condition, ListedObject, ObjectInfo, OpenUpload, Part, Version
from stores import fileread, fileupload, journal, sidecar
from stores.base import Store
from stores.beneath import (
    bucket_directory,
    is_absent,
    mapped,
    open_directory,
    prune,
    remove,
    rename_new,
    split_key,
    status,
    sync_directory,
)
from stores.body import Body
from stores.checksum import Digest
from stores.chunks import Chunks
from stores.crew import Crew, ended
from stores.folders import Folders
from stores.keylock import locked, tidy
from stores.pace import current_budget
from stores.publish import CREATE, Commit, Incoming, batches, check_condition, no_step, version_of
from stores.sidecar import Record
from stores.smallfiles import Looked, Wanted, Whole, answer_all, store_all
from stores.walk import walk

THREADS = 16
HANDS = 16
"""Threads that look at files, that read small ones, and that write them, where that is slow."""

P = ParamSpec("P")
T = TypeVar("T")


class FileStore(Store):
    """The directories under `root` as buckets. Blocking calls run in threads of its own, in pieces of 1 MiB.

    `on_step` is told when a write has passed a step ("written", "synced", "recorded", "renamed", "published"): the
    places where tests crash it. `new_id` gives 32 hexadecimal digits that never come twice (by default
    random ones).
    """

    def __init__(
        self,
        name: str,
        *,
        root: Path,
        on_step: Callable[[str], None] = no_step,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self.kind = "file"
        self.identity = f"file:{os.path.realpath(root)}"
        self.limits = FILE_LIMITS
        self._root = str(root)
        self._on_step = on_step
        self._new_id = new_id or _random_ids()
        self._written: set[str] = set()
        """Buckets that may have locks of this store."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"files-{name}")
        answer = partial(answer_all, self._root)
        self._lookers: Crew[Looked, ObjectInfo] = Crew(answer, hands=HANDS, name=f"files-{name}-looker")
        self._readers: Crew[Wanted, tuple[ObjectInfo, bytes]] = Crew(answer, hands=HANDS, name=f"files-{name}-reader")
        self._writers = Crew(partial(store_all, self._root), hands=HANDS, name=f"files-{name}-writer")

    # --- looking -----------------------------------------------------------------------------------------------------

    def check_key(self, key: str) -> None:
        split_key(key)

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        if writable:
            self._written.add(bucket)
        detail = await self._run(self._probe, bucket, writable)
        return Capabilities(
            conditional_writes=True,
            conditional_completes=True,
            conditional_deletes=True,
            pinned_reads=True,
            server_side_copy=True,
            upload_checksum="response",
            part_checksum="header",  # what was sent is written down beside the part
            detail=detail,
        )

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        return await self._lookers.do(Looked(bucket, key, tags))

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        entries = self._entries(bucket, prefix, start_after)
        try:
            while page := await self._run(_take, entries, page_size):
                yield page
        finally:
            await self._run(entries.close)

    @asynccontextmanager
    async def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        file = fileread.Pinned(self._root, bucket, key, pin, offset, length)

        async def chunks() -> Chunks:
            piece = first
            while piece:
                yield piece
                piece = await self._run(file.next_piece)

        try:
            first = await self._run(file.open)
            yield chunks()
        finally:
            file.close()

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        return await self._readers.do(Wanted(bucket, key, pin), pin.size_bytes)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        self._check_metadata(attributes)
        self._written.add(bucket)
        incoming = Incoming(self._root, bucket, key, journal.temporary_name(self._new_id()), self._on_step)
        try:
            if body.whole is None:
                async for batch in batches(body):
                    await self._run(incoming.write, batch)
            commit = Commit(body.size_bytes, body.result().crc32c, attributes, condition, self._on_step)
            if body.whole is not None and (info := await self._writers.do(Whole(incoming, body.whole, commit), body.size_bytes)):
                return info
            return await self._run(incoming.publish, commit)
        except BaseException:
            await self._run(incoming.discard)
            raise

    async def copy(
        self,
        source_bucket: str,
        source_key: str,
        pin: Version,
        bucket: str,
        key: str,
        attributes: Attributes,
        condition: Condition,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        source = await self._run(fileread.pinned_head, self._root, source_bucket, source_key, pin)
        async with self.read(source_bucket, source_key, pin=pin, offset=0, length=pin.size_bytes) as chunks:
            body = Body(_counted(chunks, progress), pin.size_bytes, check=_expecting(source.checksums.crc32c))
            return await self.put(bucket, key, body, attributes, condition)

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        self._check_metadata(attributes)
        self._written.add(bucket)
        return await self._run(self._update_attributes, bucket, key, version, attributes)

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        self._written.add(bucket)
        await self._run(self._delete, bucket, key, version)

    # --- uploads of parts --------------------------------------------------------------------------------------------

    async def begin_upload(self, bucket: str, key: str, attributes: Attributes) -> str:
        self._check_metadata(attributes)
        upload_id = self._new_id()
        await self._run(fileupload.begin, self._root, bucket, key, upload_id, datetime.now(UTC))
        return upload_id

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        upload = fileupload.OpenedUpload(self._root, bucket, key, upload_id)
        try:
            await self._run(upload.begin_part, number, offset)
            async for batch in batches(body):
                await self._run(upload.write, batch)
            part = Part(number, body.size_bytes, f"{body.digest.crc32c:08x}", body.digest.crc32c)
            return await self._run(upload.finish_part, part, offset)
        finally:
            upload.close()

    async def copy_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source_bucket: str,
        source_key: str,
        pin: Version,
        offset: int,
        length: int,
    ) -> Part:
        async with self.read(source_bucket, source_key, pin=pin, offset=offset, length=length) as chunks:
            return await self.put_part(bucket, key, upload_id, number, offset, Body(_counted(chunks), length))

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        upload = fileupload.OpenedUpload(self._root, bucket, key, upload_id)
        try:
            found = await self._run(upload.open)
        finally:
            upload.close()
        return [found.parts[number].part for number in sorted(found.parts)]

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        attributes: Attributes,
        condition: Condition,
        *,
        crc32c: int | None,
    ) -> ObjectInfo:
        self._check_metadata(attributes)
        self._written.add(bucket)
        upload = fileupload.OpenedUpload(self._root, bucket, key, upload_id)
        try:
            return await self._run(upload.publish, parts, attributes, condition, crc32c, self._on_step)
        finally:
            upload.close()

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        await self._run(fileupload.abort, self._root, bucket, key, upload_id)

    async def list_uploads(self, bucket: str, prefix: str = "") -> AsyncIterator[OpenUpload]:
        """Leftovers of a put that a crash cut short are named by their own path, for want of a key."""
        uploads = self._uploads(bucket, prefix)
        try:
            while page := await self._run(_take, uploads, 100):
                for upload in page:
                    yield upload
        finally:
            await self._run(uploads.close)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    # --- in threads --------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` in a thread. A cancellation waits until it has ended, so that nothing changes after the call unwinds."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await ended(future)
            raise

    def _close(self) -> None:
        self._lookers.close()
        self._readers.close()
        self._writers.close()
        self._threads.shutdown()
        for bucket in self._written:
            with suppress(OSError, ObjectError), bucket_directory(self._root, bucket) as fd:
                tidy(fd)

    def _check_metadata(self, attributes: Attributes) -> None:
        size = sum(len(text.encode()) for pair in attributes.metadata.items() for text in pair)
        if size > self.limits.max_metadata_bytes:
            raise MetadataUnrepresentable(f"{size} bytes of metadata, a file store keeps {self.limits.max_metadata_bytes}")

    def _entries(self, bucket: str, prefix: str, start_after: str) -> Generator[ListedObject, None, None]:
        with mapped(prefix), bucket_directory(self._root, bucket) as bucket_fd:
            for found in walk(bucket_fd, prefix, start_after):
                file = status(found.folder, found.name)
                if file is not None and stat.S_ISREG(file.st_mode):
                    yield ListedObject(found.key, version_of(file), problem=found.problem)
                elif file is not None and found.problem and stat.S_ISDIR(file.st_mode):
                    yield ListedObject(found.key, Version(0), problem=found.problem)

    def _uploads(self, bucket: str, prefix: str) -> Generator[OpenUpload, None, None]:
        with mapped(prefix), bucket_directory(self._root, bucket) as bucket_fd:
            for found in walk(bucket_fd, prefix, ours=True):
                upload = fileupload.unfinished(found.key, found.folder, found.name)
                if upload is not None and upload.key.startswith(prefix):
                    yield upload

    def _update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        try:
            with bucket_directory(self._root, bucket) as bucket_fd, mapped(key), locked(bucket_fd, key):
                with Folders(self._root) as folders, fileread.opened(folders, bucket, key) as (folder, name, fd):
                    file = os.fstat(fd)
                    check_condition(Condition.match(version), file, key)
                    before = sidecar.load(folder, name, fd, file)
                    tags = attributes.tags if attributes.tags is not None else (before.attributes.tags if before else None)
                    crc32c = before.crc32c if before else None
                    record = Record(file.st_size, file.st_mtime_ns, crc32c, replace(attributes, tags=tags or {}))
                    if sidecar.save(folder, name, fd, record):
                        sidecar.forget(folder, name)
                    os.fsync(fd)
                    sync_directory(folder)
        except ObjectNotFound as error:
            raise PreconditionFailed(f"{key!r} is absent") from error
        with Folders(self._root) as folders:
            return fileread.head(folders, bucket, key, tags=True)

    def _delete(self, bucket: str, key: str, version: Version) -> None:
        parents, name = split_key(key)
        with mapped(key), bucket_directory(self._root, bucket) as bucket_fd:
            try:
                folder = open_directory(bucket_fd, parents)
            except OSError as error:
                if is_absent(error):
                    return
                raise
            try:
                with locked(bucket_fd, key):
                    there = status(folder, name)
                    if there is None or not stat.S_ISREG(there.st_mode):
                        return
                    check_condition(Condition.match(version), there, key)
                    remove(folder, name)
                    sidecar.forget(folder, name)
                sync_directory(folder)
            finally:
                os.close(folder)
            prune(bucket_fd, parents, len(parents))

    def _probe(self, bucket: str, writable: bool) -> str:
        """One line of what the file system can do; found out with a temporary file if `writable`."""
        with mapped(bucket), bucket_directory(self._root, bucket) as fd:
            os.scandir(fd).close()
            if not writable:
                return "conditions are cooperative (not probed)"
            first, second = (journal.temporary_name(self._new_id()) for _ in range(2))
            try:
                file = os.open(first, CREATE, 0o666, dir_fd=fd)
                try:
                    in_file = sidecar.save(fd, second, file, Record(0, 0, None, Attributes()))
                finally:
                    os.close(file)
                atomic = rename_new(fd, first, second)
            finally:
                sidecar.forget(fd, second)
                for name in (first, second):
                    remove(fd, name)
        return (
            f"conditions are cooperative; creation that never replaces: {'by the kernel' if atomic else 'under the lock only'}; "
            f"attributes: {'in the file' if in_file else 'in sidecars'}"
        )


def _random_ids() -> Callable[[], str]:
    random = Random()  # noqa: S311 - seeded by the system; asking it for each id would let go of the interpreter each time
    return lambda: f"{random.getrandbits(128):032x}"


def _take(items: Iterator[T], count: int) -> list[T]:
    return list(islice(items, count))


async def _counted(chunks: Chunks, progress: Callable[[int], None] | None = None) -> Chunks:
    """What this process moves by itself is held to the bandwidth, too."""
    done, budget = 0, current_budget()
    async for chunk in chunks:
        await budget.go_on(size_bytes=len(chunk))
        yield chunk
        done += len(chunk)
        if progress:
            progress(done)


def _expecting(crc32c: int | None) -> Callable[[Digest], None]:
    def check(digest: Digest) -> None:
        if crc32c is not None and digest.crc32c != crc32c:
            raise IntegrityMismatch(f"read CRC32C {digest.crc32c:08x}, recorded {crc32c:08x}")

    return check
