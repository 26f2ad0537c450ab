"""Where ranges are cut: evenly enough, whatever the keys look like, with a bounded number of questions."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from activities.splitting import MAX_PROBES, Splitter
from replication.models import ListedObject, Version
from replication.passes import KeyRange
from stores.memory import MemoryStore

PIECES = 8


class Numbered(Sequence[str]):
    """Ten million keys in their order, made as they are asked for."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, at: Any) -> Any:
        return [self[number] for number in range(*at.indices(len(self)))] if isinstance(at, slice) else self.form.format(at, 429 * at)


class Keys(MemoryStore):
    """Lists sorted keys, and counts how often it is asked."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__("keys")
        self.sorted = keys if isinstance(keys, Numbered) else sorted(keys)
        self.asked = 0

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        self.asked += 1
        first = bisect_right(self.sorted, start_after) if start_after else 0
        page = [key for key in self.sorted[first : first + page_size] if key.startswith(prefix)]
        if page:
            yield [ListedObject(key, Version(1)) for key in page]


SHAPES: dict[str, Sequence[str]] = {
    "flat numbers": [f"obj-{number:08d}" for number in range(20_000)],
    "one deep prefix": [f"a/very/deep/prefix/of/many/levels/{number:06d}" for number in range(20_000)],
    "hashes": [f"{random.Random(number).getrandbits(128):032x}" for number in range(20_000)],
    "folders": [f"{folder}/{number}" for folder in "abcdefghij" for number in range(2_000)],
    "other scripts": [f"{chr(0x4E00 + number % 500)}{number}" for number in range(20_000)],
    "days": [f"logs/2026/{month:02d}/{day:02d}/{number}" for month in range(1, 13) for day in range(1, 29) for number in range(60)],
    "ten million, flat": Numbered("obj-{0:08d}"),
    "ten million, one deep prefix": Numbered("a/very/deep/prefix/of/many/levels/{0:08d}"),
    "ten million, hashes": Numbered("{1:08x}"),
}


async def cut(keys: Sequence[str], within: KeyRange | None = None) -> tuple[list[int], int]:
    """How many keys fall into each piece, and how many questions that took."""
    store = Keys(keys)
    found = await Splitter(store, "b", "").cuts("", within or KeyRange(), PIECES)
    assert found == sorted(set(found))
    bounds = [within.after if within else "", *found, (within and within.up_to) or "\U0010ffff"]
    sizes = [bisect_right(store.sorted, high) - bisect_right(store.sorted, low) for low, high in pairwise(bounds)]
    return sizes, store.asked


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_range_is_cut_into_pieces_of_which_none_is_nearly_all(shape: str) -> None:
    keys = SHAPES[shape]
    sizes, asked = await cut(keys)
    assert sum(sizes) == len(keys)
    assert len(sizes) >= PIECES // 2
    assert max(sizes) < 0.6 * len(keys), sizes
    assert asked <= MAX_PROBES + 100


async def test_only_the_range_itself_is_cut() -> None:
    keys = SHAPES["flat numbers"]
    sizes, _ = await cut(keys, KeyRange(after="obj-00005000", up_to="obj-00015000"))
    assert sum(sizes) == 10_000
    assert max(sizes) < 6_000


@pytest.mark.parametrize("keys", [[], ["only"], ["a", "a\0", "a\0\0"], ["x" * 1000 + str(number) for number in range(3)]])
async def test_few_keys_are_no_problem(keys: list[str]) -> None:
    sizes, _ = await cut(keys)
    assert sum(sizes) == len(keys)
