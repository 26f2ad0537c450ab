"""Uploads of parts to a file store: one temporary file, written into at the parts' offsets, and its journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from replication.errors import IntegrityMismatch, ServerFault, UploadLost
from replication.models import Attributes, Condition, ObjectInfo, OpenUpload, Part
from stores import journal
from stores.beneath import (
    bucket_directory,
    is_absent,
    mapped,
    open_directory,
    open_regular,
    prune,
    remove,
    split_key,
    status,
    sync_directory,
)
from stores.checksum import combine_crc32c
from stores.chunks import Chunk
from stores.keylock import try_lock
from stores.publish import CREATE, Commit, Written, create_beside, publish, version_of, write_at


def begin(root: str, bucket: str, key: str, upload_id: str, started: datetime) -> None:
    """Makes the two files of an upload. The journal comes first: a temporary file alone would not say whose it is."""
    parents, _ = split_key(key)
    with mapped(key), bucket_directory(root, bucket) as bucket_fd:
        name = journal.journal_name(upload_id)
        folder, fd, made = create_beside(bucket_fd, parents, name, key)
        try:
            write_at(fd, [journal.opening(key, started)], 0)
            os.fsync(fd)
            os.close(os.open(journal.temporary_name(upload_id), CREATE, 0o666, dir_fd=folder))
            sync_directory(folder)
        except OSError:
            remove(folder, name)
            prune(bucket_fd, parents, made)
            raise
        finally:
            os.close(fd)
            os.close(folder)


def abort(root: str, bucket: str, key: str, upload_id: str) -> None:
    """Removes what there is of an upload, and the directories that this empties."""
    if not journal.is_id(upload_id):
        return
    # A leftover is named by its own path, whose last segment is reserved: only its directory is wanted here.
    parents, _ = split_key("-" if "/" not in key else key.rpartition("/")[0] + "/-")
    with mapped(key), bucket_directory(root, bucket) as bucket_fd:
        try:
            folder = open_directory(bucket_fd, parents)
        except OSError as error:
            if is_absent(error):
                return
            raise
        try:
            # The journal goes last: as long as it is there, a repetition finds the rest.
            gone = [remove(folder, journal.temporary_name(upload_id)), remove(folder, journal.journal_name(upload_id))]
            sync_directory(folder)
        finally:
            os.close(folder)
        if any(gone):
            prune(bucket_fd, parents, len(parents))


class OpenedUpload:
    """An upload's files. Parts share a lock of the temporary file, completion needs it alone: nothing writes into an
    object that has been published."""

    def __init__(self, root: str, bucket: str, key: str, upload_id: str) -> None:
        self._parents, self._name = split_key(key)
        self._root, self._bucket, self._key, self.id = root, bucket, key, upload_id
        self._folder = self._fd = -1
        self._end = 0

    def open(self, *, exclusive: bool = False) -> journal.Journal:
        if not journal.is_id(self.id):
            raise UploadLost(f"{self.id!r} is no upload of this store")
        with mapped(self._key), bucket_directory(self._root, self._bucket) as bucket:
            try:
                self._folder = open_directory(bucket, self._parents)
                self._fd = open_regular(self._folder, journal.temporary_name(self.id), os.O_RDWR)
                if not try_lock(self._fd, exclusive=exclusive):
                    raise ServerFault(f"{self._key!r}: the upload {self.id} is being {'written' if exclusive else 'completed'}")
                # Read under the lock: an upload that was completed before has no journal any more.
                found = journal.read(self._folder, self.id)
            except OSError as error:
                if is_absent(error):
                    raise UploadLost(f"{self._key!r} has no upload {self.id}") from error
                raise
        if found is None or found.key != self._key:
            raise UploadLost(f"{self._key!r} has no upload {self.id}")
        return found

    def begin_part(self, number: int, offset: int) -> None:
        self.open()
        self._end = offset
        self._append(journal.begun(number), sync=False)

    def write(self, chunks: Sequence[Chunk]) -> None:
        with mapped(self._key):
            self._end = write_at(self._fd, chunks, self._end)

    def finish_part(self, part: Part, offset: int) -> Part:
        with mapped(self._key):
            os.fdatasync(self._fd)
        self._append(journal.finished(part, offset), sync=True)
        return part

    def publish(
        self, parts: Sequence[Part], attributes: Attributes, condition: Condition, crc32c: int | None, on_step: Callable[[str], None]
    ) -> ObjectInfo:
        size, combined = join(self.open(exclusive=True), parts)
        if crc32c is not None and crc32c != combined:
            raise IntegrityMismatch(f"{self._key!r}: the parts have CRC32C {combined:08x}, expected {crc32c:08x}")
        with mapped(self._key), bucket_directory(self._root, self._bucket) as bucket:
            if os.fstat(self._fd).st_size > size:
                os.ftruncate(self._fd, size)
            file = Written(self._folder, journal.temporary_name(self.id), self._fd, self._name, self._key)
            info = publish(bucket, file, Commit(size, combined, attributes, condition, on_step))
            remove(self._folder, journal.journal_name(self.id))
        return info

    def close(self) -> None:
        for fd in (self._fd, self._folder):
            if fd >= 0:
                os.close(fd)
        self._fd = self._folder = -1

    def _append(self, line: bytes, *, sync: bool) -> None:
        try:
            with mapped(self._key):
                journal.append(self._folder, self.id, line, sync=sync)
        except ServerFault as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise UploadLost(f"{self._key!r}: the upload {self.id} was aborted") from error
            raise


def join(found: journal.Journal, parts: Sequence[Part]) -> tuple[int, int]:
    """Size and CRC32C of `parts` put together, which must be stored as named and stand end to end from byte 0."""
    end, last, pieces = 0, 0, []
    for part in parts:
        stored = found.parts.get(part.number)
        if stored is None or part.number <= last or stored.offset != end or part.etag not in ("", stored.part.etag):
            raise IntegrityMismatch(f"part {part.number} is not stored as it was named")
        pieces.append((stored.part.crc32c or 0, stored.part.size_bytes))
        end, last = end + stored.part.size_bytes, part.number
    return end, combine_crc32c(pieces)


def unfinished(path: str, folder: int, name: bytes) -> OpenUpload | None:
    """The upload that a reserved file belongs to: its journal's, or, of a temporary file without journal, its own path."""
    parsed = journal.parse_name(name)
    file = status(folder, name)
    if parsed is None or file is None:
        return None
    upload_id, kind = parsed
    touched = version_of(file).modified or datetime.fromtimestamp(0, UTC)
    if kind == "tmp":
        alone = status(folder, journal.journal_name(upload_id)) is None
        return OpenUpload(path, upload_id, touched) if alone else None
    with suppress(OSError):
        if found := journal.read(folder, upload_id):
            return OpenUpload(found.key, upload_id, found.started)
    return OpenUpload(path, upload_id, touched)
