"""Who waits for whom where bytes and requests are limited."""

from __future__ import annotations

import asyncio

import pytest

from stores.pace import Budget, Pace, Paces, current_budget, on_budget

PER_S = 100.0
MOMENT_S = 0.05


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Limited:
    """A store that may be asked for so many bytes, and so many requests, a second; a pass and a change that use it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.paces = Paces(Pace(clock=self.clock), Pace(clock=self.clock))
        self.paces.set(PER_S, PER_S)
        self.of_pass, self.of_change = Budget([self.paces]), Budget([self.paces], first=True)


async def waits(work: asyncio.Task[None]) -> bool:
    await asyncio.wait([work], timeout=MOMENT_S)
    return not work.done()


@pytest.fixture
def limited() -> Limited:
    return Limited()


async def test_a_pass_waits_until_what_changes_took_is_paid(limited: Limited) -> None:
    assert limited.of_change.reserve(requests=150) == pytest.approx(0.5)
    scan = asyncio.create_task(limited.of_pass.begin(requests=1))
    limited.clock.now = 1.5
    assert await waits(scan)
    limited.clock.now = 1.6
    await asyncio.wait_for(scan, 5)


async def test_changes_have_their_turns_in_order_and_at_the_rate(limited: Limited) -> None:
    turns = [limited.of_change.reserve(requests=50) for _ in range(6)]
    assert turns == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.5, 2.0])
    limited.clock.now = 2.0
    assert limited.of_change.reserve(requests=50) == pytest.approx(0.5)


async def test_the_bytes_of_changes_go_before_those_of_passes_and_wait_for_themselves(limited: Limited) -> None:
    await limited.of_change.go_on(size_bytes=60)
    passing = asyncio.create_task(limited.of_pass.go_on(size_bytes=1))
    assert await waits(passing)
    await asyncio.wait_for(limited.of_change.go_on(size_bytes=60), 5)
    changing = asyncio.create_task(limited.of_change.go_on(size_bytes=1))
    assert await waits(changing)
    limited.clock.now = 0.3
    await asyncio.wait_for(changing, 5)
    assert await waits(passing)
    limited.clock.now = 1.3
    await asyncio.wait_for(passing, 5)


async def test_what_a_change_asks_for_after_its_turn_is_counted_and_does_not_wait(limited: Limited) -> None:
    limited.of_change.reserve(requests=1000)
    await asyncio.wait_for(limited.of_change.go_on(requests=100), 5)
    assert limited.of_change.reserve(requests=0) == pytest.approx(10.0)


async def test_everybody_waits_in_order_of_arrival_and_who_leaves_holds_up_nobody(limited: Limited) -> None:
    limited.clock.now = 0.001
    passed: list[int] = []

    async def one(number: int) -> None:
        await limited.of_pass.begin(requests=100)
        passed.append(number)

    works = [asyncio.create_task(one(number)) for number in range(6)]
    await asyncio.sleep(0)
    for work in (works[1], works[3]):
        work.cancel()
    for seconds in range(1, 6):
        limited.clock.now = seconds + 0.01
        await asyncio.sleep(0.3)
    assert passed == [0, 2, 4, 5]
    assert [work.cancelled() for work in works] == [False, True, False, True, False, False]


async def test_a_pause_holds_what_would_begin_and_lets_go_on_what_is_under_way(limited: Limited) -> None:
    limited.paces.set(None, None, paused=True)
    beginning = asyncio.create_task(limited.of_pass.begin(requests=1))
    await asyncio.wait_for(limited.of_pass.go_on(size_bytes=1000), 5)
    assert await waits(beginning)
    limited.paces.set(None, None)
    await asyncio.wait_for(beginning, 5)


async def test_without_limits_nothing_waits_and_a_budget_holds_for_its_block_only(limited: Limited) -> None:
    assert not current_budget().limits_bytes
    await asyncio.wait_for(current_budget().go_on(size_bytes=1 << 40, requests=1 << 20), 5)
    with on_budget(limited.of_pass):
        assert current_budget() is limited.of_pass
        assert current_budget().limits_bytes
    assert current_budget() is not limited.of_pass
