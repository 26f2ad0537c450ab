"""Locks of a file store: one for each key, held against every thread and process that uses the same folder.

POSIX has no compare-and-rename: looking at what stands under a name and replacing it are one step only among those who take the
lock of the key. All locks of a bucket are bytes of one empty file (open file description locks), so that writers of different keys
do not wait for each other. Where the system or the file system has none, the whole file is the lock. It is removed by the last
who uses it, so a lock counts only while its file stands.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from replication.errors import StoreTimeout
from replication.keys import RESERVED_NAME

LOCK_NAME = RESERVED_NAME.encode() + b"lock"
OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
EVERY_KEY = (0, 0)
"""Start and length of all bytes, as locks count them."""
PATIENCE_S = 30.0
LOOK_EVERY_S = 0.001
_NOT_THERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_HELD = (errno.EAGAIN, errno.EACCES)


class Locks:
    """The locks of the bucket whose folder `bucket` is, for one thread that holds one at a time."""

    def __init__(self, bucket: int) -> None:
        self._bucket = bucket
        self._fd = -1
        self._file: os.stat_result | None = None

    def try_hold(self, key: str) -> bool:
        """Whether the key's lock was had without waiting."""
        while True:
            if self._file is None:
                self._fd = os.open(LOCK_NAME, OPEN | os.O_CREAT, 0o666, dir_fd=self._bucket)
                self._file = os.fstat(self._fd)
            if not _try_bytes(self._fd, lock_of(key), 1):
                return False
            if _stands(self._bucket, self._file):
                return True
            self.close()  # somebody removed it before we had our lock: it counts for nobody any more

    def hold(self, key: str) -> None:
        """`StoreTimeout` after 30 s."""
        until = time.monotonic() + PATIENCE_S
        while not self.try_hold(key):
            if time.monotonic() > until:
                raise StoreTimeout(f"another process has held the lock of {key!r} for {PATIENCE_S:.0f} s")
            time.sleep(LOOK_EVERY_S)

    def release(self, key: str) -> None:
        _free_bytes(self._fd, lock_of(key), 1)

    def close(self) -> None:
        """Gives back what is held, too."""
        if self._file is not None:
            os.close(self._fd)
        self._file = None


@contextmanager
def locked(bucket: int, key: str) -> Iterator[None]:
    """Holds the key's lock in the folder `bucket`. `StoreTimeout` after 30 s."""
    locks = Locks(bucket)
    try:
        locks.hold(key)
        yield
    finally:
        locks.close()


def tidy(bucket: int) -> None:
    """Removes the file of the locks, if nobody holds one. Who had opened it before takes another."""
    try:
        fd = os.open(LOCK_NAME, OPEN, dir_fd=bucket)
    except FileNotFoundError:
        return
    try:
        if _try_bytes(fd, *EVERY_KEY) and _stands(bucket, os.fstat(fd)):
            os.unlink(LOCK_NAME, dir_fd=bucket)
    finally:
        os.close(fd)


def _stands(bucket: int, file: os.stat_result) -> bool:
    """Whether the open file is still the one under its name."""
    try:
        return os.path.samestat(os.stat(LOCK_NAME, dir_fd=bucket, follow_symlinks=False), file)
    except FileNotFoundError:
        return False


def lock_of(key: str) -> int:
    """The byte that stands for a key. Keys that a file system may take for one name share it."""
    return zlib.crc32(unicodedata.normalize("NFC", key).casefold().encode(errors="surrogatepass"))


def _try_bytes(fd: int, start: int, length: int) -> bool:
    try:
        return _set_lock(fd, fcntl.F_WRLCK, start, length) or try_lock(fd, exclusive=True)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise


def _free_bytes(fd: int, start: int, length: int) -> None:
    if not _set_lock(fd, fcntl.F_UNLCK, start, length):
        fcntl.flock(fd, fcntl.LOCK_UN)


def _set_lock(fd: int, kind: int, start: int, length: int) -> bool:
    """False where there are no locks of bytes that belong to an open file description."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise
    return True


def try_lock(fd: int, *, exclusive: bool) -> bool:
    """Whether flock(2) was had without waiting. It ends when the descriptor is closed."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
