"""How many parts are under way at once from one store to another, and how that follows what it brings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from activities.streams import FEW, RESTS, WINDOW_S, Streams, Width
from tests.poll import within

MOST = 32
FIRST_S = WINDOW_S * 1.01


def widths(rate: Callable[[int], float], windows: int) -> list[int]:
    """The width of each window at a store that gives `rate(width)` bytes a second."""
    width, seen = Width(), []
    for _ in range(windows):
        seen.append(width.streams)
        width = width.after(rate(width.streams), MOST)
    return seen


def test_streams_that_each_bring_as_much_are_widened_to_the_most_there_may_be() -> None:
    assert widths(lambda streams: 50e6 * streams, 8) == [4, 4, 6, 9, 14, 21, 32, 32]


def test_a_line_that_is_full_keeps_the_few_streams_and_is_tried_again_later() -> None:
    seen = widths(lambda _: 150e6, 2 * RESTS)
    assert set(seen) == {4, 6}
    assert [number for number, streams in enumerate(seen) if streams == 6] == [2, RESTS + 4]


def test_widening_ends_where_the_line_is_full() -> None:
    assert max(widths(lambda streams: min(50e6 * streams, 400e6), 8)) == 14
    assert widths(lambda streams: min(50e6 * streams, 400e6), 8)[-1] == 9


def test_less_than_half_of_what_more_streams_could_bring_is_not_worth_them() -> None:
    assert widths(lambda streams: 100e6 + 10e6 * streams, 6) == [4, 4, 6, 4, 4, 4]


class Line:
    """Parts that wait for `streams`, and a clock that this test turns."""

    def __init__(self, most: int = MOST) -> None:
        self.now = 0.0
        self.streams = Streams(most, clock=lambda: self.now)
        self.begun: list[int] = []
        self.ends = [asyncio.Event() for _ in range(40)]
        self.moved: dict[int, Callable[[int], None]] = {}

    async def part(self, number: int) -> None:
        async with self.streams.stream() as moved:
            self.begun.append(number)
            self.moved[number] = moved
            await self.ends[number].wait()

    @asynccontextmanager
    async def waiting(self, count: int) -> AsyncIterator[None]:
        """So many parts, which go on until the block ends."""
        async with asyncio.TaskGroup() as parts:
            for number in range(count):
                parts.create_task(self.part(number))
            await asyncio.sleep(0.01)
            yield
            for end in self.ends:
                end.set()

    async def window(self, bytes_per_stream: int) -> None:
        """One window in which every part under way moves so many bytes."""
        self.now += FIRST_S / 2
        for number in self.begun[:-1]:
            self.moved[number](bytes_per_stream)
        self.now += FIRST_S / 2
        self.moved[self.begun[-1]](bytes_per_stream)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_parts_begin_in_order_and_more_of_them_as_long_as_that_pays() -> None:
    line = Line()
    async with line.waiting(40):
        assert line.begun == list(range(FEW))
        for wide in (4, 6, 9):
            await line.window(1 << 20)
            assert (line.streams.width, line.begun) == (wide, list(range(wide)))
    assert line.begun == list(range(40))


async def test_what_is_alone_begins_with_few_again() -> None:
    line = Line()
    async with line.waiting(20):
        await line.window(1 << 20)
        await line.window(1 << 20)
        assert line.streams.width == 6
    await line.part(30)
    assert line.streams.width == FEW


async def test_nothing_is_concluded_from_streams_that_nobody_waits_for() -> None:
    line = Line()
    async with line.waiting(FEW):
        for _ in range(4):
            await line.window(1 << 20)
        assert line.streams.width == FEW


@pytest.mark.parametrize("granted", [False, True])
async def test_a_part_that_is_cancelled_leaves_its_place_to_the_next(granted: bool) -> None:
    line = Line(most=1)
    first = asyncio.create_task(line.part(0))
    second, third = asyncio.create_task(line.part(1)), asyncio.create_task(line.part(2))
    await asyncio.sleep(0.01)
    assert line.begun == [0]
    if granted:
        line.ends[0].set()
        await first
    second.cancel()
    line.ends[0].set()
    line.ends[2].set()
    await within(third, 5)
    assert line.begun == [0, 2]
    assert (await asyncio.gather(second, return_exceptions=True))[0].__class__ is asyncio.CancelledError
