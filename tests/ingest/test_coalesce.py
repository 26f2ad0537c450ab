"""When starts of hot keys go out: the rule, with times made up."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.coalesce import Coalescer

INTERVAL_S = 1.0
EVENTS = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.5]), st.sampled_from("abc")), max_size=60)
LATE_S = st.sampled_from([0.0, 0.25, 3.0])


@dataclass
class Sender:
    """Sends what is due, `late_s` after its time, as a busy machine does."""

    late_s: float
    coalescer: Coalescer[str] = field(default_factory=lambda: Coalescer(INTERVAL_S))
    due: dict[str, float] = field(default_factory=dict)
    events: dict[str, list[float]] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)

    def note(self, key: str, now: float) -> None:
        self.events.setdefault(key, []).append(now)
        when = self.coalescer.note(key, now)
        assert (when is None) == (key in self.due), "one start is pending, and it is joined"
        if when is not None:
            assert when >= now
            self.due[key] = when + self.late_s

    def send(self, until: float) -> None:
        for key, at in sorted(self.due.items(), key=lambda item: item[1]):
            if at <= until:
                self.coalescer.sent(key, at)
                self.starts.setdefault(key, []).append(at)
                del self.due[key]


@given(EVENTS, LATE_S)
def test_every_event_is_followed_by_a_start_and_starts_keep_their_distance(events: list[tuple[float, str]], late_s: float) -> None:
    sender, now = Sender(late_s), 0.0
    for pause, key in events:
        now += pause
        sender.send(until=now)
        sender.note(key, now)
    sender.send(until=float("inf"))
    for key, noted in sender.events.items():
        assert sender.starts[key][-1] >= noted[-1]
        assert len(sender.starts[key]) <= len(noted)
        assert all(later - earlier >= INTERVAL_S for earlier, later in itertools.pairwise(sender.starts[key]))


@given(EVENTS)
def test_only_keys_of_the_last_interval_are_remembered(events: list[tuple[float, str]]) -> None:
    sender, now = Sender(0.0), 0.0
    for pause, key in events:
        now += pause
        sender.send(until=now)
        sender.note(key, now)
    sender.send(until=now + INTERVAL_S)
    sender.note("fresh", now + 2 * INTERVAL_S)
    assert len(sender.coalescer) == 1


def test_an_idle_key_is_due_at_once_and_a_hot_one_at_the_end_of_its_interval() -> None:
    coalescer = Coalescer[str](INTERVAL_S)
    assert coalescer.note("k", 10.0) == 10.0
    coalescer.sent("k", 10.0)
    assert coalescer.note("k", 10.2) == 11.0
    assert coalescer.note("k", 10.3) is None
    assert coalescer.note("cold", 10.3) == 10.3
    coalescer.sent("k", 11.0)
    assert coalescer.note("k", 20.0) == 20.0


def test_a_start_that_goes_out_late_puts_off_the_next() -> None:
    coalescer = Coalescer[str](INTERVAL_S)
    coalescer.note("k", 0.0)
    coalescer.sent("k", 5.0)
    assert coalescer.note("k", 5.5) == 6.0


def test_an_event_after_a_start_was_sent_does_not_join_it() -> None:
    coalescer = Coalescer[str](INTERVAL_S)
    coalescer.note("k", 0.0)
    coalescer.sent("k", 0.0)
    assert coalescer.note("k", 0.0) is not None


def test_nothing_is_sent_that_is_not_pending() -> None:
    with pytest.raises(KeyError):
        Coalescer[str](INTERVAL_S).sent("k", 0.0)
