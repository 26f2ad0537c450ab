"""What a pass has under way in a process waits for the first word of the pass: it may be paused since long."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.budgets import StoreBudgets
from activities.shares import Shares
from activities.steering import Steerings
from activities.turns import Turns
from ledger.ledger import Ledger
from replication.passes import Steering, SteeringShare
from tests.passes.in_memory import settings_of


class Slow:
    """Stands for a client whose server answers late, or first not at all."""

    def __init__(self, answers: list[SteeringShare | RPCError]) -> None:
        self.answers = answers

    def get_workflow_handle(self, _: str) -> Slow:
        return self

    async def query(self, *_: Any, **__: Any) -> SteeringShare:
        await asyncio.sleep(0.2)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RPCError):
            raise answer
        return answer


def told(*, paused: bool) -> SteeringShare:
    return SteeringShare(steering=Steering(paused=paused), partitions=[0, 1])


LATE = RPCError("nobody answers", RPCStatusCode.DEADLINE_EXCEEDED, b"")
GONE = RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")


async def let_in(answers: list[SteeringShare | RPCError], within_s: float) -> int:
    """How many of two partitions let an object through."""
    settings = settings_of()
    ledger = Ledger(settings.ledger)
    shares = Shares(ledger)
    steerings, turns = Steerings(cast(Client, Slow(answers)), shares, StoreBudgets(settings, shares)), Turns()
    inside = 0

    async def scan(number: int) -> None:
        nonlocal inside
        async with steerings.gate("reconcile:r", number, settings.route("r"), turns) as gate, gate.admit(1, 2):
            inside += 1

    scans = [asyncio.create_task(scan(number)) for number in range(2)]
    await asyncio.wait(scans, timeout=within_s)
    for task in scans:
        task.cancel()
    await asyncio.gather(*scans, return_exceptions=True)
    await ledger.close()
    return inside


@pytest.mark.parametrize("answers", [[told(paused=True)], [LATE, told(paused=True)]], ids=["late", "first not at all"])
async def test_a_paused_pass_lets_nothing_through_before_it_says_so(answers: list[SteeringShare | RPCError]) -> None:
    assert await let_in(answers, within_s=2.5) == 0


@pytest.mark.parametrize("answers", [[told(paused=False)], [LATE, told(paused=False)], [GONE]], ids=["late", "first not at all", "gone"])
async def test_what_nobody_pauses_goes_on_at_the_first_word(answers: list[SteeringShare | RPCError]) -> None:
    assert await let_in(answers, within_s=10) == 2


async def test_an_answer_that_nobody_understands_is_no_silence() -> None:
    settings = settings_of()
    ledger = Ledger(settings.ledger)
    shares = Shares(ledger)
    broken = cast(Client, Slow([cast(SteeringShare, "not what was asked for")]))
    steerings = Steerings(broken, shares, StoreBudgets(settings, shares))
    with pytest.raises(AttributeError):
        async with steerings.gate("reconcile:r", 0, settings.route("r"), Turns()):
            pass
    await ledger.close()
