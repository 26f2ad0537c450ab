"""The files below a directory as keys, in the byte order of the keys, holding one directory per level in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from replication.keys import RESERVED_NAME, RESERVED_PREFIX
from stores.beneath import is_absent, name_problem, open_directory

log = logging.getLogger(__name__)


NO_KEY = "the name is not UTF-8"
NO_KEY_BELOW = "the name of this directory is not UTF-8: nothing below it is looked at"


@dataclass(frozen=True, slots=True)
class Found:
    """A directory entry that is no directory: its key, and where to look at it. `folder` is open until the next one.

    With a `problem` the name is no key: `key` is the escaped name, and ends in "/" for a directory, which is not entered.
    """

    key: str
    folder: int
    name: bytes
    problem: str = ""


@dataclass(slots=True)
class _Level:
    """`foreign` are the names as they are of those in `names` that are escaped."""

    folder: int
    path: str
    names: Iterator[str]
    foreign: dict[str, bytes]


def walk(bucket: int, prefix: str, start_after: str = "", *, ours: bool = False) -> Iterator[Found]:
    """Every file whose key starts with `prefix` and is greater than `start_after`, in order; links are not followed.

    With `ours`, this product's temporary files in any directory that may hold such keys instead. Names that are not
    UTF-8 are no keys: they come escaped (`bad\\xff`), with a problem. A directory that cannot be read raises, for a listing that is cut
    short looks like absence; one that is gone meanwhile is empty."""
    levels = list(_enter(bucket, prefix, start_after, ours))
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                os.close(levels.pop().folder)
            elif name in level.foreign:
                yield Found(level.path + name, level.folder, level.foreign[name], NO_KEY_BELOW if name.endswith("/") else NO_KEY)
            elif name.endswith("/"):
                levels += _descend(level, name, prefix, start_after, ours)
            else:
                yield Found(level.path + name, level.folder, name.encode())
    finally:
        for level in levels:
            os.close(level.folder)


def _enter(bucket: int, prefix: str, start_after: str, ours: bool) -> Iterator[_Level]:
    """The deepest directory that holds all keys of `prefix`, without reading those above it."""
    parts = prefix.split("/")[:-1]
    if prefix.startswith(RESERVED_PREFIX) or any("\0" in part or name_problem(part) for part in parts):
        return
    yield from _open(bucket, [part.encode() for part in parts], "".join(f"{part}/" for part in parts), prefix, start_after, ours)


def _descend(level: _Level, name: str, prefix: str, start_after: str, ours: bool) -> Iterator[_Level]:
    return _open(level.folder, [name[:-1].encode()], level.path + name, prefix, start_after, ours)


def _open(above: int, parts: list[bytes], path: str, prefix: str, start_after: str, ours: bool) -> Iterator[_Level]:
    try:
        folder = open_directory(above, parts)
    except OSError as error:
        if is_absent(error):
            return
        raise
    try:
        names, foreign = _names(folder, path, prefix, start_after, ours)
    except BaseException:
        os.close(folder)
        raise
    yield _Level(folder, path, iter(names), foreign)


def _names(folder: int, path: str, prefix: str, start_after: str, ours: bool) -> tuple[list[str], dict[str, bytes]]:
    """The entries of one directory that matter, subdirectories with a final "/", in order (code points: UTF-8 order); and
    which of them are escaped."""
    names, foreign, count, others = [], {}, 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            text, is_folder = os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)
            try:
                name = text.decode()
            except UnicodeDecodeError:
                count += 1
                name = text.decode("utf-8", "backslashreplace") + "/" * is_folder
                if not ours and _is_wanted(path + name, prefix, start_after) and not name.startswith(RESERVED_NAME):
                    foreign[name] = text
                continue
            if is_folder:
                if _may_hold(f"{path}{name}/", prefix, start_after) and not name.startswith(RESERVED_NAME):
                    names.append(name + "/")
            elif ours == name.startswith(RESERVED_NAME) and (ours or _is_wanted(path + name, prefix, start_after)):
                names.append(name)
                others += not ours and not entry.is_file(follow_symlinks=False)
    if others:
        log.warning("%d names in %r are symbolic links or no regular files, and are passed over", others, path)
    if count:
        log.warning("%d names in %r are not UTF-8 and cannot be keys", count, path)
        foreign = {name: foreign[name] for name in foreign.keys() - set(names)}  # what has such a name stays what it is
    return sorted([*names, *foreign]), foreign


def _is_wanted(key: str, prefix: str, start_after: str) -> bool:
    return key.startswith(prefix) and key > start_after


def _may_hold(path: str, prefix: str, start_after: str) -> bool:
    """Whether a wanted key can start with `path`, which ends in "/"."""
    on_the_way = path.startswith(prefix) or prefix.startswith(path)
    return on_the_way and (path > start_after or start_after.startswith(path)) and path != RESERVED_PREFIX
