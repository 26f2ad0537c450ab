"""How an error of the product becomes one of Temporal's: the whole tree, and the delays of PARITY F49."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities._boundary import Boundary
from activities._progress import PulseDetails, pulse
from replication.errors import BY_REASON, ObjectError, OverBudget, PermissionRefused, ServerFault, StoreTimeout, Throttled
from replication.models import SettleInput


class Failing(ActivityInboundInterceptor):
    """The innermost call: raises `error`."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if self.error is not None:
            raise self.error
        return "fine"


async def failure_of(error: BaseException, details: dict[str, Any] | None = None) -> tuple[ApplicationError, dict[str, Any]]:
    """What Temporal is told of `error`, and the heartbeat details that the next attempt gets, decoded as Temporal does."""
    environment = ActivityEnvironment()
    beats: list[PulseDetails] = []
    environment.info = replace(environment.info, heartbeat_details=[details] if details is not None else [])
    environment.on_heartbeat = lambda *sent: beats.append(sent[0])
    inbound = Boundary().intercept_activity(Failing(error))
    input = ExecuteActivityInput(fn=lambda: None, args=[SettleInput(route="r", key="k")], executor=None, headers={})
    with pytest.raises(ApplicationError) as caught:
        await environment.run(inbound.execute_activity, input)
    return caught.value, beats[-1].model_dump(mode="json")


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=list(BY_REASON))
async def test_every_error_of_the_tree_crosses_under_its_reason(kind: type[ObjectError]) -> None:
    told, _ = await failure_of(kind("what happened"))

    assert told.type == kind.reason
    assert told.non_retryable == (kind.retry == "never")
    assert told.message == "what happened"
    assert told.details == (kind.rests,)
    delays_s = {"error": 5, "timeout": 30, "turn": 0}
    assert told.next_retry_delay == (timedelta(seconds=delays_s[kind.retry]) if kind.retry in delays_s else None)
    assert (told.category == ApplicationErrorCategory.BENIGN) == (kind.rests == "again" or kind.retry == "turn")


def test_every_refusal_is_final() -> None:
    assert {kind.retry for kind in BY_REASON.values() if kind.rests == "blocked"} == {"never"}


async def delays(errors: list[ObjectError]) -> list[float | None]:
    """The delay after each failure of one activity, attempt by attempt; None: not retried."""
    found: list[float | None] = []
    details: dict[str, Any] | None = None
    for error in errors:
        told, details = await failure_of(error, details)
        found.append(told.next_retry_delay.total_seconds() if told.next_retry_delay else None)
        assert told.non_retryable == (found[-1] is None)
    return found


async def test_errors_are_retried_five_times_from_5_s_by_one_and_a_half() -> None:
    assert await delays([ServerFault("500")] * 6) == [5.0, 7.5, 11.25, 16.875, 25.3125, None]


async def test_timeouts_are_retried_three_times_from_30_s_by_one_and_a_half() -> None:
    assert await delays([StoreTimeout("silence")] * 4) == [30.0, 45.0, 67.5, None]


async def test_a_permission_that_lacks_is_not_retried() -> None:
    assert await delays([PermissionRefused("403")]) == [None]


async def test_errors_and_timeouts_are_counted_apart() -> None:
    mixed: list[ObjectError] = [ServerFault("500"), StoreTimeout("silence"), ServerFault("500"), StoreTimeout("silence")]
    assert await delays(mixed) == [5.0, 30.0, 7.5, 45.0]


async def test_the_store_may_ask_for_more_time_and_not_for_less() -> None:
    assert await delays([Throttled("429", retry_after_s=42.0), Throttled("429", retry_after_s=1.0)]) == [42.0, 7.5]


async def test_what_waits_for_its_turn_comes_back_when_that_is_and_has_not_failed() -> None:
    told, details = await failure_of(OverBudget("later", retry_after_s=17.5))
    assert told.next_retry_delay == timedelta(seconds=17.5)
    assert (details["errors"], details["timeouts"]) == (0, 0)


async def test_a_defect_is_left_to_the_activity_policy() -> None:
    environment = ActivityEnvironment()
    inbound = Boundary().intercept_activity(Failing(ZeroDivisionError()))
    input = ExecuteActivityInput(fn=lambda: None, args=[], executor=None, headers={})
    with pytest.raises(ZeroDivisionError):
        await environment.run(inbound.execute_activity, input)


class Stuck(ActivityInboundInterceptor):
    """Never ends; `advancing` says so to the pulse all the time."""

    def __init__(self, *, advancing_s: float) -> None:
        self.advancing_s = advancing_s

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        async with asyncio.timeout(self.advancing_s or None):
            while self.advancing_s:
                pulse().touch()
                await asyncio.sleep(0.01)
        await asyncio.Event().wait()


async def stall(advancing_s: float) -> BaseException:
    environment = ActivityEnvironment()
    inbound = Boundary(beat_s=0.02, stall_s=0.2).intercept_activity(Stuck(advancing_s=advancing_s))
    input = ExecuteActivityInput(fn=lambda: None, args=[], executor=None, headers={})
    with pytest.raises((ApplicationError, TimeoutError)) as caught:
        await environment.run(inbound.execute_activity, input)
    return caught.value


async def test_an_attempt_in_which_nothing_advances_fails_as_a_timeout() -> None:
    error = await stall(0)
    assert isinstance(error, ApplicationError)
    assert (error.type, error.next_retry_delay) == ("store-timeout", timedelta(seconds=30))


async def test_an_attempt_that_advances_slowly_goes_on() -> None:
    """It runs several times as long as a stall takes, and ends by itself."""
    assert isinstance(await stall(0.8), TimeoutError)


async def test_a_cancellation_by_temporal_stays_one() -> None:
    environment = ActivityEnvironment()
    inbound = Boundary().intercept_activity(Stuck(advancing_s=0))
    input = ExecuteActivityInput(fn=lambda: None, args=[], executor=None, headers={})
    running = asyncio.ensure_future(environment.run(inbound.execute_activity, input))
    await asyncio.sleep(0)
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_success_passes_through() -> None:
    inbound = Boundary().intercept_activity(Failing(None))
    input = ExecuteActivityInput(fn=lambda: None, args=[], executor=None, headers={})
    assert await ActivityEnvironment().run(inbound.execute_activity, input) == "fine"
    assert not activity.in_activity()
