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


@contextmanager
def locked(bucket: int, key: str) -> Iterator[None]:
    """Holds the key's lock in the folder `bucket`. `StoreTimeout` after 30 s."""
    fd = _hold(bucket, key)
    try:
        yield
    finally:
        os.close(fd)


def tidy(bucket: int) -> None:
    """Removes the file of the locks, if nobody holds one. Who had opened it before takes another."""
    try:
        fd = os.open(LOCK_NAME, OPEN, dir_fd=bucket)
    except FileNotFoundError:
        return
    try:
        if _try_bytes(fd, *EVERY_KEY) and _stands(bucket, fd):
            os.unlink(LOCK_NAME, dir_fd=bucket)
    finally:
        os.close(fd)


def _hold(bucket: int, key: str) -> int:
    """A descriptor that holds the key's lock, in the file that stands there then."""
    until = time.monotonic() + PATIENCE_S
    while True:
        fd = os.open(LOCK_NAME, OPEN | os.O_CREAT, 0o666, dir_fd=bucket)
        try:
            while not _try_bytes(fd, lock_of(key), 1):
                if time.monotonic() > until:
                    raise StoreTimeout(f"another process has held the lock of {key!r} for {PATIENCE_S:.0f} s")
                time.sleep(LOOK_EVERY_S)
            if _stands(bucket, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _stands(bucket: int, fd: int) -> bool:
    """Whether the open file is still the one under its name."""
    try:
        return os.path.samestat(os.stat(LOCK_NAME, dir_fd=bucket, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def lock_of(key: str) -> int:
    """The byte that stands for a key. Keys that a file system may take for one name share it."""
    return zlib.crc32(unicodedata.normalize("NFC", key).casefold().encode(errors="surrogatepass"))


def _try_bytes(fd: int, start: int, length: int) -> bool:
    if sys.platform != "linux":
        return try_lock(fd, exclusive=True)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return try_lock(fd, exclusive=True)
        if error.errno in _HELD:
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
