"""What a file cannot say by itself: an object's attributes and checksum, in an extended attribute or a file beside it.

The record names the size and the modification time of the bytes that it was written for. Once somebody changes the
file in place it describes nothing any more, neither checksum nor origin mark, and the file stands without attributes.
So the record of a file that is about to take another's place stands beside that one's until it has: whichever of the two
a crash leaves has its own.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import mimetypes
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from replication.keys import RESERVED_NAME
from replication.models import Attributes
from stores.beneath import open_regular, remove

XATTR = b"user.drayage"
NEXT = b".new"
"""Ends the name of the sidecar of a file that is about to get its name."""
MAX_RECORD_BYTES = 1 << 20

_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.ENOTSUP, errno.EPERM, errno.EDQUOT)
_TYPES = mimetypes.MimeTypes()


@dataclass(frozen=True, slots=True)
class Record:
    """Attributes and CRC32C (None: unknown) of the bytes of `size_bytes` last modified at `mtime_ns`."""

    size_bytes: int
    mtime_ns: int
    crc32c: int | None
    attributes: Attributes

    def describes(self, file: os.stat_result) -> bool:
        return (self.size_bytes, self.mtime_ns) == (file.st_size, file.st_mtime_ns)

    def encode(self) -> bytes:
        return json.dumps(self, separators=(",", ":"), default=_fields).encode()

    @classmethod
    def decode(cls, text: bytes) -> Record | None:
        """None for anything that no version of this product wrote."""
        try:
            raw: dict[str, Any] = json.loads(text)
            known = {field.name for field in dataclasses.fields(Attributes)}
            attributes = Attributes(**{name: value for name, value in raw["attributes"].items() if name in known})
            record = cls(raw["size_bytes"], raw["mtime_ns"], raw["crc32c"], attributes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return record if _is_sound(record) else None


def _fields(part: Record | Attributes) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def _is_sound(record: Record) -> bool:
    numbers = (record.size_bytes, record.mtime_ns, record.crc32c or 0)
    pairs = [record.attributes.metadata, record.attributes.tags or {}]
    texts = [value for name, value in _fields(record.attributes).items() if name not in ("metadata", "tags")]
    if not all(type(number) is int for number in numbers) or not all(isinstance(pair, dict) for pair in pairs):
        return False
    texts += [text for pair in pairs for item in pair.items() for text in item]
    return 0 <= (record.crc32c or 0) < 1 << 32 and all(isinstance(text, str) and _is_unicode(text) for text in texts)


def _is_unicode(text: str) -> bool:
    """JSON can escape halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sidecar_name(name: bytes) -> bytes:
    """The file beside `name` that holds its record where extended attributes do not."""
    return f"{RESERVED_NAME}{hashlib.sha256(name).hexdigest()[:32]}.meta".encode()


def load(folder: int, name: bytes, fd: int, file: os.stat_result) -> Record | None:
    """The record of the open file `fd`, which stands as `name` in `folder`, if one describes it as `file` tells."""
    beside = sidecar_name(name)
    for kept in (partial(_from_xattr, fd), partial(_from_sidecar, folder, beside + NEXT), partial(_from_sidecar, folder, beside)):
        text = kept()
        record = Record.decode(text) if text is not None else None
        if record is not None and record.describes(file):
            return record
    return None


def save(folder: int, name: bytes, fd: int, record: Record) -> bool:
    """Keeps `record` for `fd`, durably once `fd` and `folder` are synced. True: in the file itself, so that no sidecar is needed."""
    if save_within(fd, record, links=os.fstat(fd).st_nlink):
        return True
    announce(folder, name, record)
    keep_announced(folder, name)
    clear(fd)  # last: on a full disk the old record is better than none
    return False


def save_within(fd: int, record: Record, *, links: int) -> bool:
    """Keeps `record` in the file that has `links` names, whatever they are. False where it does not fit: `clear` must follow.

    A file with a second name holds none: an extended attribute would reach whoever holds the other name."""
    if links == 1:
        try:
            os.setxattr(fd, XATTR, record.encode())
            return True
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
    return False


def clear(fd: int) -> None:
    """Removes the record in the file, which must not outlive one beside it."""
    with suppress(OSError):
        os.removexattr(fd, XATTR)


def announce(folder: int, name: bytes, record: Record) -> None:
    """Keeps the record of the file that is about to get `name` beside that of the one that has it."""
    announced = sidecar_name(name) + NEXT
    remove(folder, announced)
    fd = os.open(announced, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(record.encode())
            file.flush()
            os.fsync(fd)
    except OSError:
        remove(folder, announced)
        raise


def keep_announced(folder: int, name: bytes) -> None:
    """Replaces the sidecar of `name` by what was announced, in one step."""
    kept = sidecar_name(name)
    os.rename(kept + NEXT, kept, src_dir_fd=folder, dst_dir_fd=folder)


def withdraw(folder: int, name: bytes) -> None:
    """Removes what was announced, if anything was."""
    remove(folder, sidecar_name(name) + NEXT)


def forget(folder: int, name: bytes) -> None:
    """Removes the sidecar of `name`, and what a crash left announced, if there is either."""
    remove(folder, sidecar_name(name))
    withdraw(folder, name)


def attributes_of(record: Record | None, name: bytes, *, tags: bool) -> Attributes:
    """The attributes as a HEAD shows them; a file that was not written by this product has the type of its extension."""
    if record is None:
        return Attributes(content_type=guess_type(name), tags={} if tags else None)
    return replace(record.attributes, tags=(record.attributes.tags or {}) if tags else None)


def guess_type(name: bytes) -> str:
    """The media type of a file's extension, by Python's own table (not the host's); "" if unknown."""
    kind, encoding = _TYPES.guess_type(name.decode(errors="replace"))
    if encoding is not None:
        # The bytes are the compressed ones: `x.csv.gz` is a gzip file, not CSV.
        return "application/gzip" if encoding == "gzip" else "application/octet-stream"
    return kind or ""


def _from_xattr(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, XATTR)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
            return None
        raise


def _from_sidecar(folder: int, sidecar: bytes) -> bytes | None:
    try:
        fd = open_regular(folder, sidecar)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_RECORD_BYTES)
