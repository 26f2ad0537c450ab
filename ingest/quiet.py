"""Which files have been still for long enough. Pure: time and the look at a file come in.

A file counts once its size, modification time and inode have stayed the same for the quiet period. The clock of the file
system is not trusted: a time in the future makes nobody wait for it. What is gone is due after the same period, and after
the files that appeared in the same moment: a file that was renamed arrives before its old name goes. Where a directory takes
a file's place, or a file a directory's, it is the other way round.

What is due is taken, and is under way until it is done. Others wait for it all that time; a change that is noted meanwhile
makes it pending again, for whoever works on it may have looked before.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import NamedTuple


class Look(NamedTuple):
    """What identifies a file's content as far as a directory tells."""

    size_bytes: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Pending:
    """One change of a key. `number` tells it from others of the same key and look; `look` is None for a file that is gone."""

    number: int
    key: str
    look: Look | None
    due: float
    after: frozenset[frozenset[str]]
    """Sets of keys as they came, shared by all that wait for the same: a directory that was renamed has many files."""


class QuietFiles:
    """Files that changed, by key. Times are seconds of one clock."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._numbers = count()
        self._pending: dict[str, Pending] = {}
        self._under_way: dict[str, dict[int, Pending]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def note(
        self, key: str, look: Look | None, now: float, *, still_for_s: float = 0.0, after: frozenset[str] | None = frozenset()
    ) -> None:
        """A file that changed, or was found, `still_for_s` after its last change. `after` must be done before it, beside what
        was said of it before; with None, nothing is: it stands in the way of others, and they wait for it."""
        known, first = self._pending.get(key), frozenset({after} if after else ())
        if known is not None and known.look == look:
            self._pending[key] = replace(known, after=first if after is None else known.after | first)
            return
        still = min(max(0.0, still_for_s), self._quiet_s)
        self._pending[key] = Pending(next(self._numbers), key, look, now + self._quiet_s - still, first)

    def due(self, now: float) -> list[Pending]:
        """What is due, with the look that was taken of it: files that exist before those that are gone."""
        due = [pending for pending in self._pending.values() if pending.due <= now]
        # Two are enough: who stands in the set does not wait for itself.
        blocking = {keys: set(islice((key for key in keys if self._is_open(key)), 2)) for keys in _groups(due)}
        found = [pending for pending in due if all(blocking[keys] <= {pending.key} for keys in pending.after)]
        return sorted(found, key=lambda pending: pending.look is None)

    def take(self, due: Iterable[Pending]) -> list[Pending]:
        """What of it is still pending as it was; it is under way now."""
        taken = [pending for pending in due if self._pending.get(pending.key) == pending]
        for pending in taken:
            self._under_way.setdefault(pending.key, {})[pending.number] = self._pending.pop(pending.key)
        return taken

    def awaited(self) -> Set[str]:
        """Keys that others wait for."""
        return frozenset[str]().union(*_groups(self._pending.values()))

    def done(self, taken: Pending) -> None:
        """What was taken is at its end. A change that was noted meanwhile stays."""
        same_key = self._under_way[taken.key]
        del same_key[taken.number]
        if not same_key:
            del self._under_way[taken.key]

    def give_back(self) -> None:
        """Whoever worked on what is under way is gone: it is pending again, where no later change is."""
        for same_key in self._under_way.values():
            latest = same_key[max(same_key)]
            self._pending.setdefault(latest.key, latest)
        self._under_way.clear()

    def _is_open(self, key: str) -> bool:
        return key in self._pending or key in self._under_way


def _groups(pending: Iterable[Pending]) -> frozenset[frozenset[str]]:
    return frozenset(keys for item in pending for keys in item.after)
