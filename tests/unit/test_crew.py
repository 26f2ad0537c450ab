"""Jobs that threads take many at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from stores import crew as module
from stores.crew import AT_ONCE, MOMENT_S, PATIENCE_S, WEIGHT_AT_ONCE, Crew

LONG_S = 3600.0

MakesCrew = Callable[[Callable[[Sequence[int]], Sequence[int | Exception]], int], Crew[int, int]]


@pytest.fixture
def crew_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakesCrew]:
    """Makes crews that take as much as they may, however long something took before."""
    monkeypatch.setattr(module, "MOMENT_S", LONG_S)
    crews: list[Crew[int, int]] = []

    def make(work: Callable[[Sequence[int]], Sequence[int | Exception]], hands: int) -> Crew[int, int]:
        crews.append(Crew(work, hands=hands, name="crew"))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


class Desk:
    """Work that waits until it is let go on, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def work(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.given.append(list(jobs))
        self.begun.release()
        assert self.go_on.wait(30)
        return [ValueError(str(job)) if job < 0 else 2 * job for job in jobs]

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


async def test_what_waits_is_taken_together_and_in_order(crew_of: MakesCrew) -> None:
    desk = Desk()
    crew = crew_of(desk.work, 1)
    first = asyncio.create_task(crew.do(0))
    await desk.has_begun()
    rest = [asyncio.create_task(crew.do(job)) for job in range(1, AT_ONCE + 3)]
    await asyncio.sleep(0)
    desk.go_on.set()
    assert await asyncio.gather(first, *rest) == [2 * job for job in range(AT_ONCE + 3)]
    assert desk.given == [[0], list(range(1, AT_ONCE + 1)), [AT_ONCE + 1, AT_ONCE + 2]]


async def test_heavy_jobs_are_taken_fewer_at_a_time(crew_of: MakesCrew) -> None:
    desk = Desk()
    crew = crew_of(desk.work, 1)
    first = asyncio.create_task(crew.do(0))
    await desk.has_begun()
    rest = [asyncio.create_task(crew.do(job, WEIGHT_AT_ONCE // 2)) for job in range(1, 6)]
    await asyncio.sleep(0)
    desk.go_on.set()
    await asyncio.gather(first, *rest)
    assert desk.given == [[0], [1, 2], [3, 4], [5]]


async def test_an_error_is_that_of_its_job_alone(crew_of: MakesCrew) -> None:
    desk = Desk()
    desk.go_on.set()
    crew = crew_of(desk.work, 2)
    answers = await asyncio.gather(*(crew.do(job) for job in (1, -2, 3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2", "-2", "6"]
    assert isinstance(answers[1], ValueError)


async def test_work_that_raises_fails_what_it_had_and_nothing_after_it(crew_of: MakesCrew) -> None:
    def work(jobs: Sequence[int]) -> list[int]:
        if 0 in jobs:
            raise RuntimeError("a defect")
        return list(jobs)

    crew = crew_of(work, 1)
    with pytest.raises(RuntimeError, match="a defect"):
        await crew.do(0)
    assert await crew.do(1) == 1


async def test_another_thread_comes_only_to_who_has_waited_and_never_more_than_are_allowed(crew_of: MakesCrew) -> None:
    desk = Desk()
    crew = crew_of(desk.work, 3)
    doing = []
    for hands in (1, 2, 3):
        doing.append(asyncio.create_task(crew.do(hands)))
        await desk.has_begun()
    doing.append(asyncio.create_task(crew.do(4)))
    await asyncio.sleep(10 * PATIENCE_S)
    assert desk.given == [[1], [2], [3]], "a fourth thread came, or one before it was time"
    desk.go_on.set()
    assert await asyncio.gather(*doing) == [2, 4, 6, 8]


async def test_who_does_not_wait_long_gets_no_thread_of_its_own(crew_of: MakesCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    desk = Desk()
    crew = crew_of(desk.work, 3)
    doing = [asyncio.create_task(crew.do(1))]
    await desk.has_begun()
    doing += [asyncio.create_task(crew.do(job)) for job in (2, 3)]
    await asyncio.sleep(0.05)
    assert desk.given == [[1]]
    desk.go_on.set()
    await asyncio.gather(*doing)
    assert desk.given == [[1], [2, 3]]


async def test_a_cancelled_job_that_nobody_began_is_taken_back(crew_of: MakesCrew) -> None:
    desk = Desk()
    crew = crew_of(desk.work, 1)
    first = asyncio.create_task(crew.do(1))
    await desk.has_begun()
    second = asyncio.create_task(crew.do(2))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    desk.go_on.set()
    assert await first == 2
    assert desk.given == [[1]]


async def test_a_cancelled_job_that_was_begun_is_waited_for(crew_of: MakesCrew) -> None:
    desk = Desk()
    crew = crew_of(desk.work, 1)
    doing = asyncio.create_task(crew.do(-1))
    await desk.has_begun()
    for _ in range(3):
        doing.cancel()
        done, _ = await asyncio.wait([doing], timeout=0.02)
        assert not done, "it unwound while its thread was at work"
    desk.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert await crew.do(3) == 6


class Clock:
    """Work that takes a time of its own for being begun, and another for each job."""

    def __init__(self, begin_s: float, job_s: float) -> None:
        self.now = 0.0
        self.begin_s, self.job_s = begin_s, job_s
        self.given: list[int] = []

    def work(self, jobs: Sequence[int]) -> list[int]:
        self.given.append(len(jobs))
        self.now += self.begin_s + self.job_s * len(jobs)
        return list(jobs)

    async def take(self, jobs: int) -> list[int]:
        """How many at a time, after a first one alone."""
        crew = Crew(self.work, hands=1, name="crew", clock=lambda: self.now)
        await crew.do(-1)
        assert await asyncio.gather(*(crew.do(job) for job in range(jobs))) == list(range(jobs))
        crew.close()
        return self.given[1:]


async def test_slow_jobs_are_taken_a_few_at_a_time() -> None:
    given = await Clock(begin_s=0.0, job_s=MOMENT_S / 2.5).take(100)
    assert max(given) < AT_ONCE / 2
    assert given[-2] == 3


async def test_jobs_that_are_faster_together_are_taken_together() -> None:
    """A disk that syncs for most of the moment, whatever there is."""
    given = await Clock(begin_s=0.8 * MOMENT_S, job_s=MOMENT_S / 1000).take(1_000)
    assert given[0] <= 5
    assert max(given) == AT_ONCE
