"""Objects of scans under way at once: all lanes alone, a few beside changes, in order, and none lost by a cancellation."""

from __future__ import annotations

import asyncio

from activities.lanes import LINGER_S, Lanes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Objects that each hold a lane until they are let out."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.inside: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._out: dict[int, asyncio.Event] = {}

    async def come(self, count: int) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._object(len(self.tasks))))
        await settled()

    async def leave(self, number: int) -> None:
        self._out[number].set()
        await settled()

    async def _object(self, number: int) -> None:
        self._out[number] = asyncio.Event()
        async with self._lanes:
            self.inside.append(number)
            await self._out[number].wait()
            self.inside.remove(number)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_alone_all_lanes_are_taken_and_the_longest_waiting_goes_first() -> None:
    crowd = Crowd(Lanes(4, 2))
    await crowd.come(7)
    assert crowd.inside == [0, 1, 2, 3]
    await crowd.leave(2)
    assert crowd.inside == [0, 1, 3, 4]


async def test_beside_a_change_few_are_let_in_and_all_again_a_second_after_the_last_one() -> None:
    clock = Clock()
    lanes = Lanes(4, 2, clock=clock)
    crowd = Crowd(lanes)
    await crowd.come(8)
    with lanes.following():
        await crowd.leave(0)
        await crowd.leave(1)
        assert crowd.inside == [2, 3], "nobody is let in until fewer than two are inside"
        await crowd.leave(2)
        assert crowd.inside == [3, 4]
    await crowd.leave(3)
    assert crowd.inside == [4, 5], "the next change is expected"
    clock.now += LINGER_S
    await crowd.leave(4)
    assert crowd.inside == [5, 6, 7]


async def test_one_that_is_cancelled_while_it_waits_or_as_it_is_let_in_takes_no_lane_along() -> None:
    crowd = Crowd(Lanes(1, 1))
    await crowd.come(4)
    crowd.tasks[1].cancel()
    await settled()
    crowd._out[0].set()
    while 0 in crowd.inside:
        await asyncio.sleep(0)
    crowd.tasks[2].cancel()  # it was given the lane in the same turn of the loop
    await settled()
    assert crowd.inside == [3]
    await crowd.leave(3)
    await crowd.come(1)
    assert crowd.inside == [4]
    crowd.tasks[4].cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
