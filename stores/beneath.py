"""Paths that cannot leave their root: every directory is opened relative to a descriptor, and no link is ever followed.

`openat2(2)` resolves a whole path in one atomic step where the kernel has it; elsewhere each component is opened by
itself with O_NOFOLLOW. Joining strings and comparing prefixes is never safe against a directory that is swapped for a
link meanwhile, so nothing here does that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from replication.errors import (
    BucketNotFound,
    DestinationReadOnly,
    KeyCollision,
    KeyUnrepresentable,
    NoSpace,
    ObjectError,
    ObjectTooLarge,
    PermissionRefused,
    ServerFault,
)
from replication.keys import RESERVED_NAME, check_key

MAX_NAME_BYTES = 255

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)

BY_ERRNO: dict[int, type[ObjectError]] = {
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EROFS: DestinationReadOnly,
    errno.EACCES: PermissionRefused,
    errno.EPERM: PermissionRefused,
    errno.ENAMETOOLONG: KeyUnrepresentable,
    errno.EILSEQ: KeyUnrepresentable,
    errno.EINVAL: KeyUnrepresentable,
    errno.EFBIG: ObjectTooLarge,
    errno.ENOTDIR: KeyCollision,
    errno.EISDIR: KeyCollision,
    errno.ELOOP: KeyCollision,
}
"""What the kernel says, as this product's errors; EIO, ESTALE and everything else are `ServerFault`."""


@contextmanager
def mapped(key: str) -> Iterator[None]:
    """Turns an OSError that was not expected where it arose into the error of `BY_ERRNO`."""
    try:
        yield
    except OSError as error:
        found = BY_ERRNO.get(error.errno or 0, ServerFault)
        raise found(f"{key!r}: {os.strerror(error.errno or 0)}") from error


def is_absent(error: OSError) -> bool:
    """Whether opening failed because no plain file or directory stands there (a link counts as nothing)."""
    return error.errno in _ABSENT


# --- names -----------------------------------------------------------------------------------------------------------


def name_problem(name: str) -> str | None:
    """Why a file system cannot hold `name` as one component of a path, or None."""
    if not name:
        return "a path has no empty segments"
    if name in (".", ".."):
        return f"the segment {name!r} means a directory"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a segment of {len(name.encode())} bytes, a file name holds {MAX_NAME_BYTES}"
    if name.startswith(RESERVED_NAME):
        return f"names that start with {RESERVED_NAME!r} are this product's temporary files"
    return None


def split_key(key: str) -> tuple[list[bytes], bytes]:
    """The directories and the file name of a key. `KeyInvalid` or `KeyUnrepresentable` if it cannot be a path."""
    check_key(key)
    *parents, name = key.split("/")
    for segment in (*parents, name):
        if problem := name_problem(segment):
            raise KeyUnrepresentable(f"{key!r}: {problem}")
    return [parent.encode() for parent in parents], name.encode()


# --- directories -----------------------------------------------------------------------------------------------------


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SYS_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_RENAME_NOREPLACE = 1
_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_libc = ctypes.CDLL(None, use_errno=True)


def _openat2(directory: int, path: bytes) -> int:
    how = _OpenHow(_DIRECTORY, 0, _RESOLVE)
    arguments = (ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(directory), ctypes.c_char_p(path))
    fd: int = _libc.syscall(*arguments, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return fd


def _step_by_step(directory: int, parts: Sequence[bytes]) -> int:
    fd = os.open(b".", _DIRECTORY, dir_fd=directory)
    for part in parts:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def open_directory(directory: int, parts: Sequence[bytes], *, atomic: bool = True) -> int:
    """A new descriptor of the directory `parts` below `directory`. OSError with ENOTDIR or ELOOP where a link stands."""
    if atomic and parts:
        try:
            return _openat2(directory, b"/".join(parts))
        except OSError as error:
            # EAGAIN: a rename ran alongside. ENOSYS, EPERM: an old kernel or a seccomp filter.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EAGAIN):
                raise
    return _step_by_step(directory, parts)


@contextmanager
def directory(above: int, parts: Sequence[bytes]) -> Iterator[int]:
    """`open_directory`, closed again."""
    fd = open_directory(above, parts)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def bucket_directory(root: str, bucket: str) -> Iterator[int]:
    """The directory `bucket` directly under `root`; the root itself may be a link, the bucket may not."""
    if name_problem(bucket) or "/" in bucket or "\0" in bucket:
        raise BucketNotFound(f"{bucket!r} cannot name a bucket")
    try:
        fd = os.open(os.path.join(root, bucket), _DIRECTORY)
    except OSError as error:
        if is_absent(error):
            raise BucketNotFound(f"no directory {bucket!r} under the root") from error
        raise BY_ERRNO.get(error.errno or 0, ServerFault)(f"bucket {bucket!r}: {os.strerror(error.errno or 0)}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def make_directories(above: int, parts: Sequence[bytes], key: str) -> tuple[int, int]:
    """Opens `parts` below `above`, making what is missing durably: (descriptor, how many were made).

    `KeyCollision`, naming both, where an object or a link stands in the way."""
    with suppress(OSError):
        return open_directory(above, parts), 0
    fd, made = open_directory(above, ()), 0
    for depth, part in enumerate(parts):
        try:
            made += _make_directory(fd, part)
            below = open_directory(fd, [part])
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            other = b"/".join(parts[: depth + 1]).decode()
            raise KeyCollision(f"{key!r} would stand below {other!r}, which is not a directory") from error
        finally:
            os.close(fd)
        fd = below
    return fd, made


def _make_directory(above: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o777, dir_fd=above)
    except FileExistsError:
        return 0
    sync_directory(above)
    return 1


def prune(above: int, parts: Sequence[bytes], at_most: int) -> None:
    """Removes up to `at_most` directories from the lower end of `parts`, each only if it is empty."""
    for depth in range(len(parts), len(parts) - at_most, -1):
        try:
            with directory(above, parts[: depth - 1]) as fd:
                os.rmdir(parts[depth - 1], dir_fd=fd)
        except OSError:
            return


# --- files -----------------------------------------------------------------------------------------------------------


def open_regular(folder: int, name: bytes, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file of `folder`. FileNotFoundError for anything else: links, pipes, sockets, devices, directories."""
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if is_absent(error) or error.errno == errno.EISDIR:
            raise FileNotFoundError(errno.ENOENT, "no regular file") from error
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "not a regular file")


def status(folder: int, name: bytes) -> os.stat_result | None:
    """What stands at `name` itself, links not followed; None if nothing does."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def sync_directory(folder: int) -> None:
    """Makes the names in `folder` durable. Some network and FUSE file systems cannot be asked to: they answer EINVAL."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def start_writeback(fd: int) -> None:
    """Has the kernel begin to write a file to the disk, where it can be asked to. Only `fsync` says that it is there."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(ctypes.c_int(fd), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_WRITE))


def remove(folder: int, name: bytes) -> bool:
    """Whether a file was there to be unlinked."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def rename_new(folder: int, old: bytes, new: bytes) -> bool:
    """Renames within `folder` unless `new` exists: FileExistsError then. False where the file system cannot tell atomically.

    `renameat2(RENAME_NOREPLACE)`, else `link(2)`: neither ever replaces."""
    if hasattr(_libc, "renameat2"):
        at = ctypes.c_int(folder)
        if _libc.renameat2(at, old, at, new, ctypes.c_uint(_RENAME_NOREPLACE)) == 0:
            return True
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            return False
        raise
    os.unlink(old, dir_fd=folder)
    return True
