"""When a change may ask its stores, where their limits are used up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from activities._progress import Pulse, current_pulse
from activities.objects import SETTLING, turn_came
from replication.errors import OverBudget
from replication.retries import WAIT_MAX_S
from stores.pace import Budget, Pace, Paces


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    token = current_pulse.set(Pulse())
    yield current_pulse.get()
    current_pulse.reset(token)


def used_up(for_s: float) -> Budget:
    """A request a second, by a clock that stands, and changes before that take so many seconds."""
    paces = Paces(requests=Pace(clock=lambda: 0.0))
    paces.set(None, 1.0)
    budget = Budget([paces], first=True)
    budget.reserve(requests=int(for_s))
    return budget


async def test_a_change_comes_back_when_its_turn_is_and_goes_at_once_then(pulse: Pulse) -> None:
    budget = used_up(for_s=100)
    ahead_s = budget.reserve(requests=0) + SETTLING
    with pytest.raises(OverBudget) as told:
        await turn_came(budget)
    assert told.value.retry_after_s == pytest.approx(ahead_s)
    assert pulse.details.has_turn
    await turn_came(budget)
    assert budget.reserve(requests=0) == pytest.approx(ahead_s), "it is counted once"


async def test_a_turn_too_far_ahead_is_not_taken_and_is_asked_for_again(pulse: Pulse) -> None:
    budget = used_up(for_s=WAIT_MAX_S + 100)
    ahead_s = budget.reserve(requests=0)
    for _ in range(2):
        with pytest.raises(OverBudget):
            await turn_came(budget)
        assert not pulse.details.has_turn
    assert budget.reserve(requests=0) == pytest.approx(ahead_s)
