"""An upload to a file store: a temporary file that parts are written into, and a journal of the parts that are there.

The journal is lines of JSON. The first names the key; then, for each part, a line when its bytes begin to change and
one when they are all on disk. Every line is written with one append that starts with a newline, so that a line torn
by a crash spoils nothing but itself.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from replication.keys import RESERVED_NAME
from replication.models import Part
from stores.beneath import open_regular

_TEMPORARY = re.compile(re.escape(RESERVED_NAME) + r"([0-9a-f]{32})\.(tmp|parts)")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part and where its bytes begin."""

    part: Part
    offset: int


@dataclass(frozen=True, slots=True)
class Journal:
    """What a journal says: whose upload it is, and the parts that are whole, by number."""

    key: str
    started: datetime
    parts: dict[int, StoredPart]


def is_id(upload_id: str) -> bool:
    """Whether this store can have given out `upload_id`; only then may it become part of a file name."""
    return _ID.fullmatch(upload_id) is not None


def temporary_name(upload_id: str) -> bytes:
    return f"{RESERVED_NAME}{upload_id}.tmp".encode()


def journal_name(upload_id: str) -> bytes:
    return f"{RESERVED_NAME}{upload_id}.parts".encode()


def parse_name(name: bytes) -> tuple[str, str] | None:
    """The id and the kind ("tmp" or "parts") of a temporary file's name."""
    match = _TEMPORARY.fullmatch(name.decode(errors="replace"))
    return (match[1], match[2]) if match else None


def opening(key: str, started: datetime) -> bytes:
    return _line({"key": key, "started": started.timestamp()})


def begun(number: int) -> bytes:
    """From here on the bytes of part `number` are changing: what was said of them is void."""
    return _line({"number": number})


def finished(part: Part, offset: int) -> bytes:
    return _line({"number": part.number, "offset": offset, "size": part.size_bytes, "crc32c": part.crc32c})


def append(folder: int, upload_id: str, line: bytes, *, sync: bool) -> None:
    """Adds a line. FileNotFoundError when the upload was aborted or completed meanwhile."""
    fd = open_regular(folder, journal_name(upload_id), os.O_WRONLY | os.O_APPEND)
    try:
        if os.write(fd, line) < len(line):  # the disk is full: what is torn here says nothing, and must not pass for said
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def read(folder: int, upload_id: str) -> Journal | None:
    """The journal, or None if its first line is not whole. FileNotFoundError if there is none."""
    with os.fdopen(open_regular(folder, journal_name(upload_id)), "rb") as file:
        return parse(file.read())


def parse(text: bytes) -> Journal | None:
    """The journal that `text` is; torn lines are passed over."""
    key, started = None, datetime.fromtimestamp(0, UTC)
    parts: dict[int, StoredPart] = {}
    for line in text.splitlines():
        entry = _entry(line)
        with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):  # a line that is not ours says nothing
            if isinstance(entry.get("key"), str):
                key, started = entry["key"], datetime.fromtimestamp(entry["started"], UTC)
            elif "crc32c" in entry:
                parts[entry["number"]] = _stored(entry)
            elif "number" in entry:
                parts.pop(entry["number"], None)
    return None if key is None else Journal(key, started, parts)


def _stored(entry: dict[str, Any]) -> StoredPart:
    part = Part(entry["number"], entry["size"], f"{entry['crc32c']:08x}", entry["crc32c"])
    return StoredPart(part, entry["offset"])


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _line(entry: dict[str, Any]) -> bytes:
    return b"\n" + json.dumps(entry, separators=(",", ":")).encode() + b"\n"
