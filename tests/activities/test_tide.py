"""Reads and writes of small objects by turns: in what order, how many at once, and that nobody waits for the slow."""

from __future__ import annotations

import asyncio

import pytest

from activities.tide import STEP, Tide
from stores.pace import Pace
from tests.poll import eventually, within


class Objects:
    """Objects that read, and write what they read; each step lasts until it is let go."""

    def __init__(self, tide: Tide) -> None:
        self.tide = tide
        self.reading, self.writing = set[int](), set[int]()
        self.written = list[int]()
        self.read_on, self.write_on = asyncio.Event(), asyncio.Event()
        self.tasks = list[asyncio.Task[None]]()

    def start(self, count: int) -> None:
        self.tasks += [asyncio.create_task(self._move(number)) for number in range(len(self.tasks), len(self.tasks) + count)]

    async def _move(self, number: int) -> None:
        async with self.tide.reads:
            self.reading.add(number)
            try:
                await self.read_on.wait()
            finally:
                self.reading.discard(number)
        async with self.tide.writes:
            self.writing.add(number)
            try:
                await self.write_on.wait()
            finally:
                self.writing.discard(number)
        self.written.append(number)


async def test_all_that_can_be_read_is_read_before_anything_is_written() -> None:
    objects, seen = Objects(Tide(4, 0, patience_s=60)), list[tuple[bool, bool]]()
    objects.start(20)
    await eventually(lambda: len(objects.reading) == 4)
    objects.write_on.set()
    objects.read_on.set()
    while len(objects.written) < 20:
        seen.append((bool(objects.reading), bool(objects.writing)))
        assert len(objects.reading) <= 4
        assert len(objects.writing) <= 4
        await asyncio.sleep(0)
    await asyncio.gather(*objects.tasks)
    sides = [side for side in seen if any(side)]
    assert (True, True) not in sides
    assert sides == sorted(sides, reverse=True)
    assert objects.written == list(range(20))


async def test_writes_begin_while_the_last_answers_to_reads_are_on_their_way() -> None:
    objects = Objects(Tide(4, 1, patience_s=60))
    objects.start(3)
    await eventually(lambda: len(objects.reading) == 3)
    slow = Objects(objects.tide)
    slow.start(1)
    await eventually(lambda: len(slow.reading) == 1)
    objects.read_on.set()
    await eventually(lambda: len(objects.writing) == 3)
    assert len(slow.reading) == 1
    for one in (objects, slow):
        one.read_on.set()
        one.write_on.set()
        await asyncio.gather(*one.tasks)


async def test_nobody_waits_long_for_reads_that_hang() -> None:
    tide = Tide(8, 0, patience_s=0.2)
    first, hanging, quick = Objects(tide), Objects(tide), Objects(tide)
    first.start(1)
    first.read_on.set()
    await eventually(lambda: len(first.writing) == 1)
    hanging.start(2)
    first.write_on.set()
    await eventually(lambda: len(hanging.reading) == 2)
    quick.start(2)
    quick.read_on.set()
    began = asyncio.get_running_loop().time()
    await eventually(lambda: len(quick.writing) == 2)
    assert asyncio.get_running_loop().time() - began < 5
    assert len(hanging.reading) == 2
    for one in (hanging, quick):
        one.read_on.set()
        one.write_on.set()
        await asyncio.gather(*one.tasks)


async def test_objects_under_way_take_a_pace_that_is_set_meanwhile_step_by_step() -> None:
    pace = Pace()
    objects = Objects(Tide(4, 0, patience_s=60, pace=pace))
    objects.start(10)
    objects.write_on.set()
    await eventually(lambda: len(objects.reading) == 4)
    pace.set_rate(STEP * 20)
    began = asyncio.get_running_loop().time()
    objects.read_on.set()
    await asyncio.gather(*objects.tasks)
    assert asyncio.get_running_loop().time() - began > (6 + 10 - 1) / 20
    assert objects.written == list(range(10))


@pytest.mark.parametrize("per_s", [None, 1000.0])
async def test_objects_that_are_cancelled_anywhere_leave_the_way_free(per_s: float | None) -> None:
    pace = Pace()
    pace.set_rate(per_s)
    tide = Tide(2, 0, patience_s=60, pace=pace)
    for steps in range(12):
        objects = Objects(tide)
        objects.start(8)
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps > 6:
            objects.read_on.set()
            await asyncio.sleep(0)
        for task in objects.tasks[::2]:
            task.cancel()
        objects.read_on.set()
        objects.write_on.set()
        await within(asyncio.gather(*objects.tasks, return_exceptions=True), 5)
        assert set(objects.written) >= {1, 3, 5, 7}
        assert (tide.reads.under_way, tide.writes.under_way) == (0, 0)
        assert not tide.reads.line
        assert not tide.writes.line
