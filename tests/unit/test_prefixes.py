"""Summing up by prefix, in one go over sorted keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.prefixes import Summary, folder_of, summed_up

Objects = Sequence[tuple[str, str, int]]


@pytest.mark.parametrize(
    ("key", "depth", "folder"),
    [
        ("x", 1, ""),
        ("a/x", 1, "a/"),
        ("a/b/x", 1, "a/"),
        ("a/b/x", 2, "a/b/"),
        ("a/x", 2, "a/"),
        ("a//x", 2, "a//"),
        ("/x", 1, "/"),
        ("a/", 1, "a/"),
    ],
)
def test_a_key_is_in_a_folder(key: str, depth: int, folder: str) -> None:
    assert folder_of(key, "", depth) == folder
    assert folder_of(f"base/{key}", "base/", depth) == f"base/{folder}"
    assert folder_of(f"base{key}", "base", depth) == f"base{folder}"


async def sums(objects: Objects, base: str, depth: int) -> list[Summary]:
    async def stream() -> AsyncIterator[tuple[str, str, int]]:
        for item in objects:
            yield item

    return [summary async for summary in summed_up(stream(), base, depth)]


async def test_each_folder_is_told_once_also_where_its_keys_stand_apart() -> None:
    objects = [("a/1", "in_sync", 1), ("a/b/1", "failed", 0), ("a/c", "in_sync", 2), ("a0", "in_sync", 4), ("z/1", "in_sync", 8)]
    assert await sums(objects, "", 2) == [
        Summary("a/b/", Counter(failed=1)),
        Summary("a/", Counter(in_sync=2), 3),
        Summary("z/", Counter(in_sync=1), 8),
        Summary("", Counter(in_sync=1), 4),
    ]


keys = st.lists(st.text("ab/0\u00e4", max_size=8), unique=True, max_size=30)


@given(keys, st.integers(1, 4), st.sampled_from(["", "a/", "a"]))
async def test_sums_are_those_of_counting_each_folder(found: list[str], depth: int, base: str) -> None:
    objects = sorted(((base + key, "in_sync", len(key)) for key in found), key=lambda item: item[0].encode())
    told = await sums(objects, base, depth)
    assert len({summary.prefix for summary in told}) == len(told)
    expected: dict[str, Summary] = {}
    for key, state, size in objects:
        summary = expected.setdefault(folder_of(key, base, depth), Summary(folder_of(key, base, depth)))
        summary.states[state] += 1
        summary.size_bytes += size
    assert {summary.prefix: summary for summary in told} == expected
