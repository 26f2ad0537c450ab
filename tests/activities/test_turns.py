"""Objects of scans under way at once: all turns, at full speed alone and as fast as timers stay punctual beside changes."""

from __future__ import annotations

import asyncio

from activities.turns import FIRST_PER_S, LATE_S, LEAST_PER_S, MOST_PER_S, Turns, next_rate, timer_lateness
from tests.poll import eventually


class Room:
    """Objects that have had their turn stay until they are let out."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.let_out = asyncio.Event()
        self.inside = 0

    def enter(self, objects: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._pass_through()) for _ in range(objects)]

    async def _pass_through(self) -> None:
        async with self.turns.turn():
            self.inside += 1
            await self.let_out.wait()


async def test_no_more_objects_are_under_way_than_there_are_turns() -> None:
    room = Room(Turns(4))
    objects = room.enter(7)
    await eventually(lambda: room.inside == 4)
    objects[0].cancel()
    await eventually(lambda: room.inside == 5)
    room.let_out.set()
    await asyncio.gather(*objects, return_exceptions=True)
    assert room.inside == 7


async def test_beside_changes_fewer_objects_begin_and_those_that_wait_already_take_the_new_pace() -> None:
    turns = Turns(9, 2, lateness=lambda: asyncio.sleep(0.01, 10 * LATE_S))
    room = Room(turns)
    objects = room.enter(59)
    await eventually(lambda: room.inside == 9)
    with turns.following():
        await eventually(lambda: turns.per_s == LEAST_PER_S)
        began = asyncio.get_running_loop().time()
        beside = room.enter(5)
        await eventually(lambda: room.inside == 9 + 2)
        room.let_out.set()
        await asyncio.gather(*objects, *beside)
        assert asyncio.get_running_loop().time() - began >= 50 / FIRST_PER_S


async def test_beside_changes_scans_slow_down_while_timers_are_late_and_go_at_full_speed_afterwards() -> None:
    lateness, rates = 10 * LATE_S, list[float | None]()

    async def told() -> float:
        rates.append(turns.per_s)
        await asyncio.sleep(0.001)
        return lateness

    turns = Turns(4, lateness=told)
    with turns.following():
        await eventually(lambda: rates[-1:] == [LEAST_PER_S])
        lateness = 0.0
        await eventually(lambda: rates[-1:] == [MOST_PER_S])
    assert rates[0] == FIRST_PER_S
    await eventually(lambda: turns.per_s is None)
    with turns.following():
        await eventually(lambda: turns.per_s is not None)


def test_the_rate_falls_faster_than_it_rises_and_stays_within_bounds() -> None:
    assert 1 - next_rate(1000.0, LATE_S * 1.1) / 1000.0 > next_rate(1000.0, LATE_S * 0.9) / 1000.0 - 1 > 0
    assert (next_rate(LEAST_PER_S, 1.0), next_rate(MOST_PER_S, 0.0)) == (LEAST_PER_S, MOST_PER_S)


async def test_a_loop_that_is_kept_busy_has_late_timers() -> None:
    measuring = asyncio.create_task(timer_lateness())
    while not measuring.done():
        until = asyncio.get_running_loop().time() + 0.05
        while asyncio.get_running_loop().time() < until:
            pass
        await asyncio.sleep(0)
    assert measuring.result() > LATE_S
