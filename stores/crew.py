"""Small jobs for threads, many to a thread at a time.

A thread that is woken for each job fights for the interpreter with its like and with the event loop at every call of the system.
So whoever comes takes as much of what waits as it can do in a moment, and a second one comes only where somebody has waited for a
while: where calls are fast a few threads do many, and where they are slow, on a network's file system, many threads do a few each.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from replication.limits import MIB

AT_ONCE = 32
"""Jobs that a thread takes at a time, at most."""
WEIGHT_AT_ONCE = 4 * MIB
MOMENT_S = 0.05
"""How long it is to be busy with them. More than a disk takes to sync once, so that more at a time is found to be faster there."""
MEMORY = 0.7
"""How much of what is known of a job's time stays when another was seen."""
PATIENCE_S = 0.005
"""How long the first in line waits until one more thread comes."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Place(Generic[Job, Result]):
    job: Job
    weight: int
    told: asyncio.Future[Result]
    since: float


class Crew(Generic[Job, Result]):
    """`work` answers each of the jobs that it is given, with an error for those that failed, and runs in up to `hands` threads.

    For one event loop.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        hands: int,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = ThreadPoolExecutor(hands, thread_name_prefix=name)
        self._work = work
        self._most_hands = hands
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[_Place[Job, Result]] = deque()
        self._hands = 0
        self._job_s = 0.0
        self._looking: asyncio.TimerHandle | None = None

    async def do(self, job: Job, weight: int = 0) -> Result:
        """The answer, or its error. `weight` counts against what a thread takes at a time. A cancellation takes back a job that
        nobody has begun, and waits for the end of any other."""
        place = _Place[Job, Result](job, weight, asyncio.get_running_loop().create_future(), self._clock())
        with self._lock:
            self._waiting.append(place)
            first = self._hands == 0
            if first:
                self._send_for_one()
        if not first:
            self._look_later()
        try:
            return await asyncio.shield(place.told)
        except asyncio.CancelledError:
            if not self._taken_back(place):
                await ended(place.told)
            raise

    def close(self) -> None:
        """Waits for what was begun."""
        self._threads.shutdown()

    def _send_for_one(self) -> None:
        self._hands += 1
        self._threads.submit(self._serve)

    def _taken_back(self, place: _Place[Job, Result]) -> bool:
        with self._lock, suppress(ValueError):
            self._waiting.remove(place)
            return True
        return False

    def _look_later(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        self._looking = None
        with self._lock:
            if not self._waiting:
                return
            if self._clock() - self._waiting[0].since >= PATIENCE_S and self._hands < self._most_hands:
                self._send_for_one()
        self._look_later()

    # --- in a thread -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while taken := self._take():
            began = self._clock()
            answers: Sequence[Result | Exception]
            try:
                answers = self._work([place.job for place in taken])
            except Exception as error:
                answers = [error] * len(taken)
            self._job_s = MEMORY * self._job_s + (1 - MEMORY) * (self._clock() - began) / len(taken)
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                taken[0].told.get_loop().call_soon_threadsafe(_tell, taken, answers)

    def _take(self) -> list[_Place[Job, Result]]:
        """What comes next, or nothing: then the thread goes."""
        taken: list[_Place[Job, Result]] = []
        weight = 0
        most = min(AT_ONCE, math.ceil(MOMENT_S / self._job_s)) if self._job_s else AT_ONCE
        with self._lock:
            while self._waiting and len(taken) < most and weight < WEIGHT_AT_ONCE:
                taken.append(self._waiting.popleft())
                weight += taken[-1].weight
            if not taken:
                self._hands -= 1
        return taken


def _tell(taken: Sequence[_Place[Job, Result]], answers: Sequence[Result | Exception]) -> None:
    for place, answer in zip(taken, answers, strict=True):
        if isinstance(answer, Exception):
            place.told.set_exception(answer)
        else:
            place.told.set_result(answer)


async def ended(work: asyncio.Future[Result]) -> None:
    """Waits for the end of what cannot be stopped, however often the waiting is cancelled."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # looked at, so that the loop does not report it as lost
