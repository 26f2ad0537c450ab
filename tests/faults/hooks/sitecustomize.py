"""Read by Python at the start of the worker processes of `test_every_step_on_files.py`: holds threads at calls of the system.

`DRAYAGE_TEST_STEPS` names a folder. A file `hold/<name>` there says, as JSON, at which of the changes that the file store makes in a
directory `<name>` its thread stops for good: `[nth, "before" or "after"]`. A line of `calls/<name>` is one such change, and
`held/<name>` is written when the thread stops.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = os.environ.get("DRAYAGE_TEST_STEPS", "")
CHANGES = (
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "link",
    "pwrite",
    "pwritev",
    "write",
    "ftruncate",
    "fsync",
    "fdatasync",
    "setxattr",
    "removexattr",
)
OBJECT = re.compile(r"/out-[0-9a-f]+/([^/]+)(?:/|$)")

_counts: Counter[str] = Counter()
_lock = threading.Lock()
_open, _write, _close = os.open, os.write, os.close


def path_of(target: Any, dir_fd: int | None) -> str:
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    return f"{os.readlink(f'/proc/self/fd/{dir_fd}') if dir_fd is not None else ''}/{os.fsdecode(target)}"


def watched(what: str, call: Callable[..., Any], target: Any, dir_fd: int | None, /, *arguments: Any, **named: Any) -> Any:
    found = OBJECT.search(path_of(target, dir_fd))
    hold = Path(FOLDER, "hold", found[1]) if found else None
    if found is None or hold is None or not hold.exists():
        return call(*arguments, **named)
    with _lock:
        _counts[found[1]] += 1
        number = _counts[found[1]]
    note("calls", found[1], what)
    nth, when = json.loads(hold.read_text())
    stop_if((nth, when) == (number, "before"), found[1])
    try:
        return call(*arguments, **named)
    finally:
        stop_if((nth, when) == (number, "after"), found[1])


def stop_if(here: bool, name: str) -> None:
    if here:
        note("held", name, "held")
        threading.Event().wait()


def note(kind: str, name: str, line: str) -> None:
    fd = _open(os.path.join(FOLDER, kind, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _write(fd, f"{line}\n".encode())
    _close(fd)


def patch(name: str) -> None:
    call = getattr(os, name)

    @functools.wraps(call)
    def instead(target: Any, *arguments: Any, **named: Any) -> Any:
        dir_fd = named.get("src_dir_fd", named.get("dir_fd"))
        return watched(name, call, target, dir_fd, target, *arguments, **named)

    setattr(os, name, instead)


def watched_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
    if not flags & os.O_CREAT:
        return _open(path, flags, *arguments, **named)
    fd: int = watched("open", _open, path, named.get("dir_fd"), path, flags, *arguments, **named)
    return fd


class Kernel:
    """The C library, whose `renameat2` is watched, too."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._library, name)
        if name != "renameat2":
            return call
        return lambda at, old, *more: watched(name, call, old, at.value, at, old, *more)


if FOLDER:
    from stores import beneath, crew, files

    for change in CHANGES:
        patch(change)
    os.open = watched_open
    beneath._libc = Kernel(beneath._libc)  # type: ignore[assignment]
    # Each object has a thread of its own, so that those that are held do not stand in the way of others.
    files.THREADS = files.HANDS = 400
    crew.AT_ONCE = 1
