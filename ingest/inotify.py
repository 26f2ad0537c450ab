"""What changes below a directory, as the kernel tells it (inotify(7)).

A directory is watched first and read for its subdirectories then, so that nothing is missed in between: what was in it
before is found by whoever looks into a directory that appeared, and what comes later is told. The kernel drops what finds
its queue full, and says so; then everything has to be looked at again, and another tree made.

Libraries for this lose events: some by what they do with a full queue, new directories or names that are not UTF-8, others when
whoever waits for an event is cancelled. Three calls of the C library are all that is needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_Q_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x4000_0000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x100_0000, 0x200_0000, 0x400_0000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLYDIR | _EXCL_UNLINK
_REMOVED = _DELETE | _MOVED_FROM
_EVENT = struct.Struct("iIII")
_BLOCK = 65_536
"""Bytes read at once; the largest event has 272."""

_libc = ctypes.CDLL(None, use_errno=True)
AVAILABLE = hasattr(_libc, "inotify_init1")


class WatchLimit(OSError):
    """The kernel allows no more watches, or no more of those who watch; the message names the limit."""


@dataclass
class Changes:
    """Names that were told of: those that exist by now or did, and those that were removed, of which `folders` were
    directories. `missed` says that there were more, which nobody knows."""

    appeared: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    missed: bool = False

    def __len__(self) -> int:
        return len(self.appeared) + len(self.removed)

    def add(self, later: Changes) -> None:
        self.appeared |= later.appeared
        self.removed |= later.removed
        self.folders |= later.folders
        self.missed |= later.missed


class WatchedTree:
    """The directories below `root`, symbolic links left out. `add_all` and `read` block, and are called one after the other;
    `close` may come at any time. `unreadable` is told of each directory that cannot be watched, and why."""

    def __init__(self, root: str, unreadable: Callable[[str, str], None]) -> None:
        self.root = root
        self._unreadable = unreadable
        self._working = threading.Lock()
        self._ended = False
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        self._unread: deque[bytes] = deque()
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            if number == errno.EMFILE:
                raise WatchLimit(number, "fs.inotify.max_user_instances, or what this process may open, is too low")
            raise OSError(number, os.strerror(number))

    def __len__(self) -> int:
        return len(self._paths)

    def add_all(self) -> None:
        """Watches the root and all below it. Raises `WatchLimit`."""
        with self._at_work():
            self._add(self.root)

    def read(self) -> Changes:
        """What was told since the last call; directories that appeared are watched. Raises `WatchLimit`."""
        changes = Changes()
        with self._at_work():
            self._drain()
            while self._unread and not self._ended:
                for watch, mask, name in _events(self._unread.popleft()):
                    self._take(watch, mask, name, changes)
                if not self._unread and mask & _MOVED_FROM:
                    self._drain()  # the other half of a rename, which is told at once
        return changes

    def close(self) -> None:
        """Ends what is at work in another thread soon; whoever comes last closes."""
        self._ended = True
        if self._working.acquire(blocking=False):
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
            self._working.release()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        try:
            with self._working:
                yield
        finally:
            if self._ended:
                self.close()

    def _drain(self) -> None:
        """Takes what the kernel holds: its queue is short (`fs.inotify.max_queued_events`)."""
        while not self._ended:
            try:
                self._unread.append(os.read(self.fd, _BLOCK))
            except BlockingIOError:
                return

    def _take(self, watch: int, mask: int, name: str, changes: Changes) -> None:
        """One event. What is told of a watch that is no longer known happened in a directory that is not ours any more."""
        if mask & _Q_OVERFLOW:
            changes.missed = True
        elif mask & _IGNORED:
            self._forget_watch(watch)
        elif watch in self._paths and name:
            path = os.path.join(self._paths[watch], name)
            if mask & _ISDIR:
                self._take_folder(path, mask, changes)
            else:
                (changes.removed if mask & _REMOVED else changes.appeared).add(path)

    def _take_folder(self, path: str, mask: int, changes: Changes) -> None:
        if mask & _REMOVED:
            changes.removed.add(path)
            changes.folders.add(path)
            if mask & _MOVED_FROM:  # of one that was deleted, the kernel ends the watch
                self._remove(path)
        elif mask & (_CREATE | _MOVED_TO) or path not in self._watches:  # with other attributes it may be readable
            changes.appeared.add(path)
            self._add(path)

    def _add(self, path: str) -> None:
        folders = [path]
        while folders and not self._ended:
            folder = folders.pop()
            if self._watch(folder):
                folders += _subfolders(folder)
                self._drain()

    def _watch(self, path: str) -> bool:
        """Whether the directory is watched now, and was not by this name."""
        flags = _MASK if path == self.root else _MASK | _DONT_FOLLOW
        watch: int = _libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(flags))
        if watch < 0:
            self._refused(path, ctypes.get_errno())
            return False
        if self._paths.get(watch) == path:
            return False
        self._forget_watch(watch)  # by the name that it had
        self._paths[watch], self._watches[path] = path, watch
        self._below.setdefault(os.path.dirname(path), set()).add(path)
        return True

    def _refused(self, path: str, number: int) -> None:
        if number == errno.ENOSPC:
            raise WatchLimit(number, "fs.inotify.max_user_watches is too low", path)
        if number in (errno.EACCES, errno.ENAMETOOLONG):
            self._unreadable(path, os.strerror(number))
        elif number not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # it was a directory just now
            raise OSError(number, os.strerror(number), path)

    def _remove(self, path: str) -> None:
        """Ends the watches on a directory that has that name no longer, and on all below it."""
        folders = [path]
        while folders:
            folder = folders.pop()
            folders += self._below.pop(folder, ())
            watch = self._watches.get(folder)
            if watch is not None:
                self._forget_watch(watch)
                _libc.inotify_rm_watch(self.fd, watch)

    def _forget_watch(self, watch: int) -> None:
        path = self._paths.pop(watch, None)
        if path is not None and self._watches.get(path) == watch:  # its name may be another directory's by now
            del self._watches[path]
            siblings = self._below.get(os.path.dirname(path), set())
            siblings.discard(path)
            if not siblings:
                self._below.pop(os.path.dirname(path), None)


def _events(block: bytes) -> Iterator[tuple[int, int, str]]:
    """(watch, mask, name) of each event; the name is empty where it is the watched directory's own."""
    at = 0
    while at < len(block):
        watch, mask, _, length = _EVENT.unpack_from(block, at)
        at += _EVENT.size + length
        yield watch, mask, os.fsdecode(block[at - length : at].rstrip(b"\0"))


def _subfolders(path: str) -> list[str]:
    """None of a directory that is gone."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
