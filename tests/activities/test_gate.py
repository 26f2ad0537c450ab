"""The gate of a scan: who came first goes first, whatever changes meanwhile."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from activities import gate as gates
from activities.gate import Gate, KeptOut
from activities.turns import Turns
from replication.passes import Steering, SteeringShare
from tests.poll import eventually


def gate_of(at_once: int) -> Gate:
    gate = Gate(0, Turns())
    gate.steer(share(at_once))
    return gate


def share(at_once: int, *, paused: bool = False) -> SteeringShare:
    return SteeringShare(steering=Steering(concurrency=at_once, paused=paused), partitions=[0])


class Room:
    """Who has gone through the gate stays until `leave` is set."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside = list[int]()
        self.leave = asyncio.Event()

    def enter(self, objects: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._pass_through(number)) for number in range(objects)]

    async def _pass_through(self, number: int) -> None:
        async with self.gate.admit(1, 1):
            self.inside.append(number)
            await self.leave.wait()


@pytest.mark.parametrize("at_once", [1, 3])
async def test_who_takes_the_next_object_waits_behind_those_who_wait_already(at_once: int) -> None:
    """As the workers of a scan do: each takes the next key as soon as it is done with one."""
    gate, numbers, entered = gate_of(at_once), count(), list[int]()

    async def work() -> None:
        while (number := next(numbers)) < 100:
            async with gate.admit(1, 1):
                entered.append(number)
                await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(20)))
    assert entered == sorted(entered)
    assert len(entered) == 100


async def test_a_place_is_given_back_by_whoever_goes_away() -> None:
    room = Room(gate_of(1))
    first, second, third = room.enter(3)
    await eventually(lambda: room.inside == [0])
    second.cancel()
    first.cancel()
    await eventually(lambda: room.inside == [0, 2])
    room.leave.set()
    await third
    await asyncio.gather(*room.enter(1))
    assert room.inside == [0, 2, 0]


async def test_those_who_wait_go_in_as_soon_as_more_may() -> None:
    room = Room(gate_of(1))
    tasks = room.enter(5)
    await eventually(lambda: room.inside == [0])
    room.gate.steer(share(3, paused=True))
    await asyncio.sleep(0.05)
    assert room.inside == [0]
    room.gate.steer(share(3))
    await eventually(lambda: room.inside == [0, 1, 2])
    room.leave.set()
    await asyncio.gather(*tasks)
    assert room.inside == [0, 1, 2, 3, 4]


async def test_one_that_rests_gives_its_place_up_where_nothing_may_begin_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "REST_S", 0.0)
    gate = gate_of(1)
    gate.steer(share(1, paused=True))
    with pytest.raises(KeptOut):
        async with gate.admit(1, 1, rests=True):
            raise AssertionError("let in")
    assert not gate._waiting
    gate.steer(share(1))
    async with gate.admit(1, 1, rests=True):
        pass
