"""Which files have been still for long enough. Pure: time and the look at a file come in.

A file counts once its size, modification time and inode have stayed the same for the quiet period. The clock of the file
system is not trusted: a time in the future makes nobody wait for it. What is gone is due after the same period, and after
the files that appeared in the same moment: a file that was renamed arrives before its old name goes. Where a directory takes
a file's place, or a file a directory's, it is the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple


class Look(NamedTuple):
    """What identifies a file's content as far as a directory tells."""

    size_bytes: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Pending:
    look: Look | None
    due: float
    after: frozenset[frozenset[str]]
    """Sets of keys as they came, shared by all that wait for the same: a directory that was renamed has many files."""


class QuietFiles:
    """Files that changed, by key. `look` is None for one that is gone; times are seconds of one clock."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._pending: dict[str, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def note(self, key: str, look: Look | None, now: float, *, still_for_s: float = 0.0, after: frozenset[str] = frozenset()) -> None:
        """A file that changed, or was found, `still_for_s` after its last change. `after` must be done before it."""
        known, first = self._pending.get(key), frozenset({after} if after else ())
        if known is not None and known.look == look:
            self._pending[key] = replace(known, after=known.after | first)
            return
        still = min(max(0.0, still_for_s), self._quiet_s)
        self._pending[key] = _Pending(look, now + self._quiet_s - still, first)

    def due(self, now: float) -> list[tuple[str, Look | None]]:
        """What is due, with the look that was taken of it: files that exist before those that are gone."""
        due = [(key, pending) for key, pending in self._pending.items() if pending.due <= now]
        # Two are enough: who stands in the set does not wait for itself.
        blocking = {keys: set(islice((key for key in keys if key in self._pending), 2)) for keys in _groups(p for _, p in due)}
        found = [(key, p.look) for key, p in due if all(blocking[keys] <= {key} for keys in p.after)]
        return sorted(found, key=lambda item: item[1] is None)

    def awaited(self) -> Set[str]:
        """Keys that others wait for."""
        return frozenset[str]().union(*_groups(self._pending.values()))

    def done(self, key: str, look: Look | None) -> None:
        """The key was started as it was then. A change that was seen meanwhile stays."""
        pending = self._pending.get(key)
        if pending is not None and pending.look == look:
            del self._pending[key]


def _groups(pending: Iterable[_Pending]) -> frozenset[frozenset[str]]:
    return frozenset(keys for item in pending for keys in item.after)
