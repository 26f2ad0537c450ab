"""The window of deletions: how many go, and what stops them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.deletions import FREE, Limits, Window, admit, approve, counted, needs_count

LIMITS = Limits(max_objects=50, max_percent=50, window_s=600)
ANY_SHARE = Limits(max_objects=50, max_percent=100, window_s=600)


def keys(count: int) -> list[str]:
    return [f"k{number}" for number in range(count)]


def test_deletions_go_up_to_the_number_and_then_all_wait() -> None:
    granted, window = admit(Window(), keys(40), 0.0, ANY_SHARE)
    assert (granted, window.hold) == (40, None)
    granted, window = admit(window, keys(20), 60.0, ANY_SHARE)
    assert granted == 10
    assert window.hold is not None
    assert (window.hold.count, window.hold.first[0], window.hold.since) == (10, "k10", 60.0)
    assert admit(window, ["one more"], 61.0, ANY_SHARE)[0] == 0


def test_what_is_held_stays_held_when_the_window_has_moved_on() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    granted, window = admit(window, ["later"], 10_000.0, ANY_SHARE)
    assert granted == 0
    assert not window.is_idle(10_000.0, ANY_SHARE)


def test_approval_lifts_the_stop_and_counts_from_zero() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    assert admit(approve(window), keys(50), 1.0, ANY_SHARE)[0] == 50


def test_deletions_leave_the_window_with_time() -> None:
    _, window = admit(Window(), keys(50), 0.0, ANY_SHARE)
    assert admit(window, ["k"], 599.0, ANY_SHARE)[0] == 0
    assert admit(window, ["k"], 611.0, ANY_SHARE)[0] == 1
    assert window.is_idle(611.0, ANY_SHARE)


def test_a_share_needs_the_number_of_replicas_from_the_eleventh_deletion_on() -> None:
    assert needs_count(Window(), FREE, 0.0, LIMITS) == 0
    assert needs_count(Window(), FREE + 1, 0.0, LIMITS) == 22
    assert needs_count(Window(), FREE + 1, 0.0, ANY_SHARE) == 0


def test_a_count_is_made_once_unless_it_was_broken_off_too_early_or_is_old() -> None:
    broken_off = counted(Window(), 22, complete=False, now=0.0, limits=LIMITS)
    assert needs_count(broken_off, 11, 1.0, LIMITS) == 0
    assert needs_count(broken_off, 12, 1.0, LIMITS) == 24
    complete = counted(Window(), 22, complete=True, now=0.0, limits=LIMITS)
    assert needs_count(complete, 40, 1.0, LIMITS) == 0
    assert needs_count(complete, 40, 601.0, LIMITS) == 80


def test_more_than_half_of_the_route_is_stopped_and_named_so() -> None:
    window = counted(Window(), 30, complete=True, now=0.0, limits=LIMITS)
    granted, window = admit(window, keys(24), 0.0, LIMITS)
    assert granted == 15
    assert window.hold is not None
    assert window.hold.reason == "more than 50 % of 30 deletions within 600 s"


REQUESTS = st.lists(st.tuples(st.floats(0, 400), st.integers(1, 30)), max_size=30)


@given(REQUESTS, st.integers(0, 200))
def test_no_window_ever_holds_more_than_the_limits_allow(requests: list[tuple[float, int]], replicas: int) -> None:
    window, now, granted = Window(), 0.0, list[tuple[float, int]]()
    for pause, asked in requests:
        now += pause
        if enough := needs_count(window, asked, now, LIMITS):
            gone = sum(count for _, count in granted)
            left = max(0, replicas - gone)
            window = counted(window, min(left, enough), complete=left < enough, now=now, limits=LIMITS)
        number, window = admit(window, keys(asked), now, LIMITS)
        assert 0 <= number <= asked
        granted.append((now, number))
        lately = sum(count for at, count in granted if at > now - LIMITS.window_s)
        assert lately <= LIMITS.max_objects
        assert len(window.slices) <= 62
        if number < asked:
            assert window.hold is not None
