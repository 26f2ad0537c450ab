"""Which keys differ between two digest trees, looking only below nodes that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from replication.certificate import Leaf, Node


class Change(NamedTuple):
    """What a key was and is; None where it is not there. One of the two is always there."""

    key: str
    old: Leaf | None
    new: Leaf | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A node whose children are read when they are needed."""

    node: Node
    children: Callable[[], Iterable[Branch | Leaf]]

    @property
    def key(self) -> str:
        return self.node.key


def differences(old: Iterable[Branch | Leaf], new: Iterable[Branch | Leaf]) -> Iterator[Change]:
    """Every key that differs, in order. Either side is a root, or a stream of nodes of any level in the order of keys.

    The side that is behind goes on alone: nothing on the other side can be equal to what begins there. Where both stand
    at one key, equal nodes are passed over and of unequal ones the higher is opened.
    """
    left, right = _Cursor(old), _Cursor(new)
    while left.head is not None or right.head is not None:
        a, b = left.head, right.head
        if b is None or (a is not None and a.key < b.key):
            if leaf := left.step():
                yield Change(leaf.key, leaf, None)
        elif a is None or b.key < a.key:
            if leaf := right.step():
                yield Change(leaf.key, None, leaf)
        elif isinstance(a, Leaf) and isinstance(b, Leaf):
            if a != b:
                yield Change(a.key, a, b)
            left.skip()
            right.skip()
        elif _same(a, b):
            left.skip()
            right.skip()
        else:
            (left if _level(a) >= _level(b) else right).step()


def _level(item: Branch | Leaf) -> int:
    return item.node.level if isinstance(item, Branch) else 0


def _same(a: Branch | Leaf, b: Branch | Leaf) -> bool:
    return isinstance(a, Branch) and isinstance(b, Branch) and (a.node.level, a.node.hash) == (b.node.level, b.node.hash)


class _Cursor:
    """A place in a tree. `head` is what comes next, None at the end."""

    def __init__(self, items: Iterable[Branch | Leaf]) -> None:
        self._path = [iter(items)]
        self.head: Branch | Leaf | None = None
        self.skip()

    def skip(self) -> None:
        """Goes past the head."""
        self.head = None
        while self.head is None and self._path:
            self.head = next(self._path[-1], None)
            if self.head is None:
                self._path.pop()

    def step(self) -> Leaf | None:
        """Goes past a leaf and returns it, or into a branch."""
        head = self.head
        if isinstance(head, Branch):
            self._path.append(iter(head.children()))
        self.skip()
        return head if isinstance(head, Leaf) else None
