"""The bound on bytes in memory."""

from __future__ import annotations

import asyncio
import random

from stores.budget import ByteBudget
from tests.poll import within


async def test_the_sum_never_passes_the_limit_and_everybody_gets_a_turn() -> None:
    budget, chance, most = ByteBudget(100), random.Random(5), 0
    done: list[int] = []

    async def holder(size: int) -> None:
        nonlocal most
        async with budget.hold(size):
            most = max(most, budget.held_bytes)
            await asyncio.sleep(0)
        done.append(size)

    sizes = [chance.randint(1, 60) for _ in range(200)]
    await asyncio.gather(*(holder(size) for size in sizes))

    assert sorted(done) == sorted(sizes)
    assert 60 <= most <= 100
    assert budget.held_bytes == 0


async def test_one_that_is_larger_than_the_limit_goes_alone() -> None:
    budget = ByteBudget(10)
    entered: list[str] = []

    async def holder(name: str, size: int) -> None:
        async with budget.hold(size):
            entered.append(f"{name}:{budget.held_bytes}")
            await asyncio.sleep(0)

    await asyncio.gather(holder("small", 5), holder("large", 50), holder("last", 5))

    assert entered == ["small:5", "large:50", "last:5"]


async def test_a_cancelled_holder_gives_its_bytes_back() -> None:
    budget = ByteBudget(10)

    async def forever() -> None:
        async with budget.hold(10):
            await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    second = budget.hold(5)
    waiting = asyncio.create_task(second.__aenter__())
    await asyncio.sleep(0)
    assert not waiting.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await within(waiting, 1)

    assert budget.held_bytes == 5
    await second.__aexit__(None, None, None)
