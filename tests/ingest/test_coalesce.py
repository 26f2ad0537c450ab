"""When starts of hot keys go out: the rule, with times made up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.coalesce import Coalescer

EVENTS = st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), max_size=60)


@given(EVENTS)
def test_every_event_is_followed_by_a_start_and_starts_keep_their_distance(events: list[tuple[float, str]]) -> None:
    coalescer, now = Coalescer[str](1.0), 0.0
    due: dict[str, float] = {}
    noted: dict[str, float] = {}
    starts: dict[str, list[float]] = {}

    def send(until: float) -> None:
        for key, at in sorted(due.items(), key=lambda item: item[1]):
            if at <= until:
                coalescer.sent(key, at)
                starts.setdefault(key, []).append(at)
                del due[key]

    for pause, key in events:
        now += pause
        send(now)
        noted[key] = now
        when = coalescer.note(key, now)
        assert (when is None) == (key in due)
        if when is not None:
            due[key] = when
    send(float("inf"))
    for key, last in noted.items():
        assert starts[key][-1] >= last
        assert all(later - earlier >= 0.999999 for earlier, later in zip(starts[key], starts[key][1:], strict=False))
        coalescer.forget(key, starts[key][-1] + 1.0)
    assert len(coalescer) == 0


def test_an_idle_key_is_due_at_once_and_a_hot_one_at_the_end_of_its_interval() -> None:
    coalescer = Coalescer[str](1.0)
    assert coalescer.note("k", 10.0) == 10.0
    coalescer.sent("k", 10.0)
    assert coalescer.note("k", 10.2) == 11.0
    assert coalescer.note("k", 10.3) is None
    coalescer.sent("k", 11.0)
    assert coalescer.note("k", 20.0) == 20.0


def test_a_key_is_not_forgotten_within_its_interval() -> None:
    coalescer = Coalescer[str](1.0)
    coalescer.note("k", 0.0)
    coalescer.sent("k", 0.0)
    coalescer.forget("k", 0.5)
    assert coalescer.note("k", 0.6) == 1.0
