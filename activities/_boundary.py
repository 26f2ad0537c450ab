"""The edge between the product's errors and Temporal's, crossed once, by every activity.

An `ObjectError` becomes an `ApplicationError` whose type is the error's `reason`, with the retry delay
(`replication/retries.py`) counted over this activity's own failures. Any other exception is a defect: it is retried by
the activity's policy and visible under its class name.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities import metrics
from activities._progress import BEAT_S, STALL_S, Pulse, current_pulse
from replication.errors import ObjectError, Retry, StoreTimeout
from replication.retries import SCHEDULES, Schedule, next_delay

log = logging.getLogger("drayage.activity")


class Boundary(Interceptor):
    """Worker interceptor: pulse, error mapping, metrics and one log line per failure."""

    def __init__(self, schedules: Mapping[Retry, Schedule] = SCHEDULES, *, beat_s: float = BEAT_S, stall_s: float = STALL_S) -> None:
        self._schedules = schedules
        self._beat_s, self._stall_s = beat_s, stall_s

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self._schedules, self._beat_s, self._stall_s)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, schedules: Mapping[Retry, Schedule], beat_s: float, stall_s: float) -> None:
        super().__init__(next)
        self._schedules = schedules
        self._beat_s, self._stall_s = beat_s, stall_s

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        pulse = Pulse.resume(info.heartbeat_details)
        token = current_pulse.set(pulse)
        task = asyncio.current_task()
        assert task is not None
        beats = asyncio.create_task(pulse.run(task, beat_s=self._beat_s, stall_s=self._stall_s))
        started = time.monotonic()
        try:
            return await super().execute_activity(input)
        except ObjectError as error:
            failure = self._failure(error, pulse, input)
            if failure.non_retryable and (so_far := pulse.so_far()) is not None:
                return so_far
            raise failure from error
        except asyncio.CancelledError:
            if not pulse.stalled:
                pulse.beat()  # the last beat is seconds old: what is stored since need not be sent again
                raise
            task.uncancel()
            raise self._failure(StoreTimeout("nothing advanced for minutes"), pulse, input) from None
        finally:
            beats.cancel()
            current_pulse.reset(token)
            metrics.seconds(info.activity_type, time.monotonic() - started)

    def _failure(self, error: ObjectError, pulse: Pulse, input: ExecuteActivityInput) -> ApplicationError:
        details = pulse.details
        if error.retry == "timeout":
            details.timeouts += 1
        elif error.retry != "turn":
            details.errors += 1
        failures = details.timeouts if error.retry == "timeout" else details.errors
        delay_s = next_delay(type(error), failures, retry_after_s=error.retry_after_s, schedules=self._schedules)
        pulse.beat()
        expected = error.rests == "again" or error.retry == "turn"
        route, key = _subject(input)
        metrics.failure(route, error.reason, retried=delay_s is not None)
        log.log(
            logging.INFO if expected else logging.WARNING,
            "%s: %s",
            error.reason,
            error,
            extra={"route": route, "key": key, "reason": error.reason, "retry_in_s": delay_s, "activity": activity.info().activity_type},
        )
        return ApplicationError(
            str(error),
            error.rests,
            type=error.reason,
            non_retryable=delay_s is None,
            next_retry_delay=timedelta(seconds=delay_s) if delay_s is not None else None,
            category=ApplicationErrorCategory.BENIGN if expected else ApplicationErrorCategory.UNSPECIFIED,
        )


def _subject(input: ExecuteActivityInput) -> tuple[str, str]:
    first = input.args[0] if input.args else None
    return getattr(first, "route", ""), getattr(first, "key", "")
