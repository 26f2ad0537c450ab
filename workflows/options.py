"""Every timeout, retry policy, task queue and priority of the workflows, in one place.

Retries: the boundary of the activities sets the delay of each failure (`replication/retries.py`) and ends the retries; the policy
below only paces attempts that a worker lost (killed, stopped, stalled), which are no failures of the object.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

TRANSFER_SUFFIX = "-transfer"
"""The transfer queue of a control queue `drayage` is `drayage-transfer`."""

BULK_SUFFIX = "-bulk"
"""The queue of scans, whose slots are their own: events never wait behind them."""

HEARTBEAT = timedelta(seconds=20)

_LOST_ATTEMPTS = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=60),
    maximum_attempts=100,
    non_retryable_error_types=["PayloadsTooLarge"],
)


def _config(start_to_close: timedelta) -> ActivityConfig:
    return ActivityConfig(
        start_to_close_timeout=start_to_close,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=_LOST_ATTEMPTS,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


SETTLE = _config(timedelta(minutes=30))
COPY = _config(timedelta(hours=24))
RUN = _config(timedelta(hours=48))
COMPLETE = _config(timedelta(hours=6))
ABORT = _config(timedelta(minutes=30))
SWEEP = _config(timedelta(hours=6))
SCAN = _config(timedelta(hours=48))
RECORD = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=1), schedule_to_close_timeout=timedelta(minutes=5), heartbeat_timeout=HEARTBEAT
)
"""For what is good to have on record and nothing depends on."""
PATIENCE = 5
"""How often what failed after all its retries is begun again by a pass."""

EVENT_PRIORITY = 2
BULK_PRIORITY = 4


def priority(route: str, *, bulk: bool = False) -> Priority:
    """Changes go before backfills, and routes share fairly."""
    return Priority(priority_key=BULK_PRIORITY if bulk else EVENT_PRIORITY, fairness_key=route[:64])


DEFECTS: tuple[type[BaseException], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ExceptionGroup,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What fails a workflow instead of parking it: a failed object is visible, and a new start looks afresh.

`Exception` would take in `NondeterminismError`: an incompatible deploy would then fail every open workflow, where a
parked task goes on after a rollback, and the SDK's `Replayer` waits for ever instead of telling the difference.
"""

UPDATES_PER_RUN = 1_000
"""Then a run that has answered so many goes on as a new one: the server takes 2,000."""
MAX_RUNS_IN_FLIGHT = 200
CONFLICT_LOOKS = 5
"""How often a fence may hold at the destination before the object rests in `conflict`."""
RESTARTS = 2
"""How often an upload that the store lost, or bytes that do not match their checksum, are sent again from the start."""
CHURN_DELAY_S = 20.0
"""Longest pause between looks at a source that changes faster than it copies."""
