"""Objects of scans under way at once: all turns, at full speed alone and as fast as cores stay free beside changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from activities import load
from activities.load import Load, measure_load
from activities.tide import STEP
from activities.turns import FIRST_PER_S, LATE_S, LEAST_PER_S, MOST_PER_S, SCARCE, Turns, free_share, next_rate
from tests.poll import eventually

TOO_LATE = Load(10 * LATE_S, 1.0)


class Room:
    """Objects that have had their turn stay until they are let out."""

    def __init__(self, turns: Turns, *, small: bool = False) -> None:
        self.turns = turns
        self.small = small
        self.let_out = asyncio.Event()
        self.inside = 0

    def enter(self, objects: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._pass_through()) for _ in range(objects)]

    async def _pass_through(self) -> None:
        async with self.turns.turn(small=self.small):
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


async def test_beside_changes_fewer_small_objects_begin_and_those_that_wait_already_take_the_new_pace() -> None:
    turns = Turns(2, 9, measure=lambda: asyncio.sleep(0.01, TOO_LATE))
    room = Room(turns, small=True)
    objects = room.enter(14)
    await eventually(lambda: room.inside == 9)
    with turns.following():
        await eventually(lambda: turns.per_s == LEAST_PER_S)
        began = asyncio.get_running_loop().time()
        beside = room.enter(5)
        await eventually(lambda: room.inside == 9 + 2)
        room.let_out.set()
        await asyncio.gather(*objects, *beside)
        assert asyncio.get_running_loop().time() - began >= 5 * STEP / FIRST_PER_S


async def test_beside_changes_scans_slow_down_while_the_machine_is_busy_and_go_at_full_speed_afterwards() -> None:
    now, rates = TOO_LATE, list[float | None]()

    async def told() -> Load:
        rates.append(turns.per_s)
        await asyncio.sleep(0.001)
        return now

    turns = Turns(4, linger_s=0.5, measure=told)
    with turns.following():
        await eventually(lambda: rates[-1:] == [LEAST_PER_S])
        now = Load(0.0, 1.0)
        await eventually(lambda: rates[-1:] == [MOST_PER_S])
    assert rates[0] == FIRST_PER_S
    await eventually(lambda: turns.per_s is None)
    with turns.following():
        await eventually(lambda: turns.per_s is not None)


async def test_the_pace_outlives_a_change_and_the_next_one_finds_it() -> None:
    rates = list[float | None]()

    async def told() -> Load:
        rates.append(turns.per_s)
        await asyncio.sleep(0.001)
        return Load(0.0, 1.0)

    turns = Turns(4, measure=told)
    for _ in range(2):
        with turns.following():
            await eventually(lambda: rates[-1:] == [MOST_PER_S])
    assert rates.count(FIRST_PER_S) == 1


def test_the_rate_falls_faster_than_it_rises_and_stays_within_bounds() -> None:
    for bad in TOO_LATE, Load(0.0, 0.0), Load(0.0, 0.4 * SCARCE):
        assert 1 - next_rate(1000.0, bad, 0.4) / 1000.0 > next_rate(1000.0, Load(0.0, 1.0), 0.4) / 1000.0 - 1 > 0
    assert (next_rate(LEAST_PER_S, TOO_LATE, 0.4), next_rate(MOST_PER_S, Load(0.0, 1.0), 0.4)) == (LEAST_PER_S, MOST_PER_S)


def test_the_rate_stays_where_it_leaves_the_cores_that_are_to_be_free() -> None:
    """Alone the changes leave 0.6 of the cores; 200 objects a second take all of that."""
    per_s = FIRST_PER_S
    for _ in range(100):
        per_s = next_rate(per_s, Load(0.0, max(0.0, 0.6 - per_s * 0.003)), 0.4)
    assert round(per_s) == round((0.6 - 0.4) / 0.003)


def test_the_more_cores_there_are_the_smaller_a_part_of_them_stays_free() -> None:
    assert [round(cores * free_share(cores), 1) for cores in (1, 2, 8, 32)] == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("cores", [1, 2, 8, 32, 128])
def test_cores_that_are_free_as_wanted_are_never_scarce(cores: int) -> None:
    assert round(next_rate(1000.0, Load(0.0, free_share(cores)), free_share(cores))) == 1000


async def test_a_loop_that_is_kept_busy_has_late_timers() -> None:
    measuring = asyncio.create_task(measure_load())
    while not measuring.done():
        until = asyncio.get_running_loop().time() + 0.05
        while asyncio.get_running_loop().time() < until:
            pass
        await asyncio.sleep(0)
    assert measuring.result().late_s > LATE_S


async def test_of_this_machine_some_part_is_idle() -> None:
    assert 0 <= (await measure_load()).idle <= 1


async def test_idle_is_what_the_kernel_counted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 ticks more, 30 were idle and 10 waited for a disk; what ran in guests is counted as the user's already."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "CORES", stat)
    stat.write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n")
    measuring = asyncio.create_task(measure_load())
    await asyncio.sleep(0.01)
    stat.write_text("cpu  130 0 130 730 110 0 0 0 60 0\ncpu0 1 1 1 1\n")
    assert (await measuring).idle == 0.4


async def test_a_system_that_does_not_tell_is_taken_for_a_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CORES", tmp_path / "absent")
    assert (await measure_load()).idle == 1
