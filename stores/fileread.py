"""Reading a file store: what a file is, and its bytes for as long as it stays the version that was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from replication.errors import IntegrityMismatch, ObjectNotFound, SourceChanged
from replication.models import Checksums, ObjectInfo, Version
from stores import sidecar
from stores.beneath import bucket_directory, directory, is_absent, mapped, open_regular, split_key
from stores.folders import Folders
from stores.publish import PIECE, read_at, version_of


@contextmanager
def opened(folders: Folders, bucket: str, key: str) -> Iterator[tuple[int, bytes, int]]:
    """(directory, name, file) of an object. `ObjectNotFound` where no regular file stands."""
    parents, name = split_key(key)
    with mapped(key):
        try:
            folder = folders.open(bucket, parents)
            fd = open_regular(folder, name)
            try:
                yield folder, name, fd
            finally:
                os.close(fd)
        except OSError as error:
            if is_absent(error):
                raise ObjectNotFound(f"no regular file at {key!r}") from error
            raise


def head(folders: Folders, bucket: str, key: str, *, tags: bool) -> ObjectInfo:
    with opened(folders, bucket, key) as (folder, name, fd):
        return _info(key, folder, name, fd, tags=tags)


def fetch(folders: Folders, bucket: str, key: str, pin: Version) -> tuple[ObjectInfo, bytes]:
    """A small file with its record, opened once."""
    try:
        with opened(folders, bucket, key) as (folder, name, fd):
            info = _info(key, folder, name, fd, tags=True)
            _check_pin(key, info.version, pin)
            data = read_at(fd, pin.size_bytes, 0)
            _check_pin(key, version_of(os.fstat(fd)), pin)
    except ObjectNotFound as error:
        raise SourceChanged(f"{key!r} is gone") from error
    return info, data


def pinned_head(root: str, bucket: str, key: str, pin: Version) -> ObjectInfo:
    try:
        with Folders(root) as folders:
            info = head(folders, bucket, key, tags=False)
    except ObjectNotFound as error:
        raise SourceChanged(f"{key!r} is gone") from error
    _check_pin(key, info.version, pin)
    return info


class Pinned:
    """An open file that must stay the version it was opened as. Methods run in a thread; `close` may run anywhere."""

    def __init__(self, root: str, bucket: str, key: str, pin: Version, offset: int, length: int) -> None:
        self._parents, self._name = split_key(key)
        self._root, self._bucket, self._key, self._pin = root, bucket, key, pin
        self._offset, self._end = offset, offset + length
        self._fd = -1

    def open(self) -> bytes:
        """The first piece."""
        with mapped(self._key), bucket_directory(self._root, self._bucket) as bucket:
            try:
                with directory(bucket, self._parents) as folder:
                    self._fd = open_regular(folder, self._name)
            except OSError as error:
                if is_absent(error):
                    raise SourceChanged(f"{self._key!r} is gone") from error
                raise
        self._check()
        if self._offset < 0 or self._end > self._pin.size_bytes:
            raise IntegrityMismatch(f"{self._key!r}: no bytes {self._offset}..{self._end} in {self._pin.size_bytes}")
        return self.next_piece()

    def next_piece(self) -> bytes:
        """Up to `PIECE` more bytes; b"" at the end. The last of them only while the version is still the pinned one."""
        wanted = min(PIECE, self._end - self._offset)
        with mapped(self._key):
            piece = os.pread(self._fd, wanted, self._offset)
        self._offset += len(piece)
        if self._offset >= self._end or len(piece) < wanted:
            self._check()
        if wanted and not piece:
            raise IntegrityMismatch(f"{self._key!r} ended at byte {self._offset}")
        return piece

    def _check(self) -> None:
        _check_pin(self._key, version_of(os.fstat(self._fd)), self._pin)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _check_pin(key: str, found: Version, pin: Version) -> None:
    if found.id != pin.id:
        raise SourceChanged(f"{key!r} is no longer the version {pin.id}")


def _info(key: str, folder: int, name: bytes, fd: int, *, tags: bool) -> ObjectInfo:
    """What a HEAD tells of the open file `fd`."""
    file = os.fstat(fd)
    record = sidecar.load(folder, name, fd, file)
    checksums = Checksums(crc32c=record.crc32c if record else None)
    return ObjectInfo(key, version_of(file), sidecar.attributes_of(record, name, tags=tags), checksums)
