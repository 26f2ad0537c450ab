"""The directory that a route follows: which of its paths are keys of the route, and what stands there now."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ingest import inotify
from ingest.mounts import needs_polling
from ingest.quiet import Look
from replication.keys import RESERVED_NAME
from replication.routes import Route

log = logging.getLogger("drayage.ingest")

MAX_TOLD = 10_000
"""Paths that are remembered as skipped, so that the log has each once."""
MOUNTS = Path("/proc/self/mountinfo")


class RootGone(OSError):
    """The directory is not there, or is another one now."""


class Folder:
    """The bucket `root` of a file store, as far as it is the source of `route`. All but `looks` block."""

    def __init__(self, root: Path, route: Route) -> None:
        self.root = root
        self._route = route
        self._skipped: set[str] = set()

    def identity(self) -> tuple[int, int]:
        """Device and inode of the root. Raises `RootGone`."""
        try:
            found = self.root.stat()
        except OSError as error:
            raise RootGone(f"{self.root} cannot be read: {error.strerror}") from None
        return found.st_dev, found.st_ino

    def is_silent(self) -> bool:
        """Whether nobody tells of changes there: it must be polled."""
        if not inotify.AVAILABLE:
            return True
        try:
            return needs_polling(MOUNTS.read_text(), self.root.resolve())
        except OSError:
            return False

    def heirs(self, key: str) -> dict[str, Look]:
        """The files below what is a directory now, or the file that stands where a directory above it stood."""
        path = self.root / key
        if self.look(str(path)) == "folder":
            below = ((self.key_of(file), look) for file, look in self.files(str(path)))
            return {heir: look for heir, look in below if heir is not None}
        for above in path.parents:
            found = self.look(str(above))
            heir = self.key_of(str(above))
            if isinstance(found, Look) and heir is not None:
                return {heir: found}
            if found != "gone" or above == self.root:
                return {}
        return {}

    def holds(self, key: str) -> bool:
        """Whether the folder has an object of this key now; a key that ends in "/" is a directory's."""
        found = self.look(str(self.root / key))
        return isinstance(found, Look) or (found == "folder" and key.endswith("/"))

    def key_of(self, path: str) -> str | None:
        """The key of a path below the root; None for what is no business of the route."""
        key = os.path.relpath(path, self.root).replace(os.sep, "/")
        if key == "." or any(part.startswith(RESERVED_NAME) for part in key.split("/")):
            return None
        if not _is_utf8(key):
            self.skip(path, "the name is not UTF-8")
            return None
        inside = key.startswith(self._route.source.prefix) or self._route.source.prefix.startswith(key + "/")
        if not inside or (key.startswith(self._route.source.prefix) and self._is_left_out(key)):
            return None
        return key

    def _is_left_out(self, key: str) -> bool:
        """Left out as a file; a directory of that name may still hold what is taken."""
        return self._route.skip_reason(key) is not None and not (self.root / key).is_dir()

    async def looks(self, paths: Mapping[str, str]) -> dict[str, Look | str]:
        """A look at each, by its name. One thread takes them all: each wait for one is a turn of a loop that others use, too."""
        return await asyncio.to_thread(lambda: {name: self.look(path) for name, path in paths.items()})

    def look(self, path: str) -> Look | str:
        """A look at a file, or `folder`, `gone`, or `other` for what is skipped."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return "gone"
        if stat.S_ISREG(found.st_mode):
            return Look(found.st_size, found.st_mtime_ns, found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            return "folder"
        self.skip(path, "symbolic link" if stat.S_ISLNK(found.st_mode) else "neither file nor directory")
        return "other"

    def skip(self, path: str, why: str) -> None:
        """Tells, once, that a path is left out."""
        if path not in self._skipped and len(self._skipped) < MAX_TOLD:
            self._skipped.add(path)
            log.info("skipped, %s: %r", why, path, extra={"route": self._route.name})

    def files(self, path: str) -> Iterator[tuple[str, Look]]:
        """The paths of all files below a path, with a look at each."""
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                found = self.look(file)
                if isinstance(found, Look):
                    yield file, found


def _is_utf8(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
