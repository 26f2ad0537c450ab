"""When to try again: quickly while an activity retries by itself, slowly for as long as an object rests in `waiting`.

The schedule depends on the class of the error, which a Temporal retry policy cannot express; activities answer each
failure with the delay from here (`next_retry_delay`) or with a failure that is not retried. Jitter comes in as a
fraction so that a workflow stays deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replication.errors import ObjectError, Retry, SourceArchived


@dataclass(frozen=True, slots=True)
class Schedule:
    """At most `retries` retries; the first after `initial_s` seconds, each later one after `factor` times as long."""

    initial_s: float
    factor: float
    retries: int

    def delay(self, failures: int) -> float | None:
        """Seconds until the next try after that many failures (1 or more), None when the retries are spent."""
        nth = max(failures, 1)
        return None if nth > self.retries else self.initial_s * self.factor ** (nth - 1)


TURNS = Schedule(initial_s=0.0, factor=1.0, retries=1_000_000)
"""For what is told when its turn comes."""
SCHEDULES: dict[Retry, Schedule] = {
    "error": Schedule(initial_s=5.0, factor=1.5, retries=5),
    "timeout": Schedule(initial_s=30.0, factor=1.5, retries=3),
    "turn": TURNS,
    "never": Schedule(initial_s=0.0, factor=1.0, retries=0),
}

WAIT_INITIAL_S = 60.0
WAIT_MAX_S = 900.0
WAIT_ARCHIVE_S = 4500.0
"""An archive takes hours, and each look costs a request: one an hour at most, jitter included. An event tells the end at once."""
WAIT_JITTER = 0.2
_DOUBLINGS = 7
"""60 s doubled so often passes `WAIT_ARCHIVE_S`."""


def next_delay(
    error_class: type[ObjectError], failures: int, *, retry_after_s: float | None = None, schedules: Mapping[Retry, Schedule] = SCHEDULES
) -> float | None:
    """Seconds until the activity's next try after its `failures`-th failure in a row, or None: do not try again.

    The store's own `Retry-After` is honoured as a floor, up to `WAIT_MAX_S`.
    """
    delay = schedules[error_class.retry].delay(failures)
    return None if delay is None else _at_least(delay, retry_after_s)


def waiting_delay(rests: int, fraction: float, *, reason: str = "", retry_after_s: float | None = None) -> float:
    """Seconds to rest in `waiting` for the `rests`-th time in a row (1 or more): 60 s, doubled up to 900 s, for an archive to 4500 s.

    `fraction`, from 0 to 1 and random, shortens it by up to a fifth, so that objects that an outage stopped together
    do not come back together.
    """
    longest = WAIT_ARCHIVE_S if reason == SourceArchived.reason else WAIT_MAX_S
    base = min(longest, WAIT_INITIAL_S * 2.0 ** min(max(rests, 1) - 1, _DOUBLINGS))
    return _at_least(base * (1.0 - WAIT_JITTER * fraction), retry_after_s)


def _at_least(delay_s: float, retry_after_s: float | None) -> float:
    return max(delay_s, min(retry_after_s or 0.0, WAIT_MAX_S))
