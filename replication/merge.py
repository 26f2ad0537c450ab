"""Joining key-ordered streams that arrive in pages: a batch of rows as soon as every stream has told enough to know them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import lt
from typing import Any

Row = tuple[str, Any, Any, Any]
"""A key and what each of three streams has of it, or None."""


class Stream:
    """One stream's pages, buffered. `ended` once its last page is in."""

    def __init__(self) -> None:
        self.ended = False
        self._keys: list[str] = []
        self._items: list[Any] = []

    def feed(self, keys: Sequence[str], items: Sequence[Any]) -> None:
        """Appends a page. ValueError for keys that repeat or go back: such a stream proves nothing."""
        before = [self._keys[-1], *keys[:-1]] if self._keys else keys[:-1]
        after = keys if self._keys else keys[1:]
        if not all(map(lt, before, after)):
            broken = next((one, two) for one, two in zip(before, after, strict=True) if one >= two)
            raise ValueError(f"not in byte order: {broken[1]!r} after {broken[0]!r}")
        self._keys.extend(keys)
        self._items.extend(items)

    @property
    def wants_more(self) -> bool:
        return not self._keys and not self.ended

    @property
    def known_up_to(self) -> str | None:
        """The last key before which nothing can come any more; None for all of them."""
        return None if self.ended else self._keys[-1]

    @property
    def drained(self) -> bool:
        return self.ended and not self._keys

    def take(self, bound: str | None) -> dict[str, Any]:
        """Removes and returns everything up to `bound`, that key included."""
        count = len(self._keys) if bound is None else bisect_right(self._keys, bound)
        taken = dict(zip(self._keys[:count], self._items[:count], strict=True))
        del self._keys[:count], self._items[:count]
        return taken


def take_rows(one: Stream, two: Stream, three: Stream) -> list[Row]:
    """The rows that are known: up to the smallest key that some open stream has reached. No stream may want more."""
    reached = [stream.known_up_to for stream in (one, two, three)]
    bound = min((key for key in reached if key is not None), default=None)
    first, second, third = one.take(bound), two.take(bound), three.take(bound)
    return [(key, first.get(key), second.get(key), third.get(key)) for key in sorted({*first, *second, *third})]
