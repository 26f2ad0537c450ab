"""The window of deletions: how many go, and what stops them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.deletions import FREE, Count, Limits, Window, admit, approve, counted, needs_count

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
    assert window.hold.reason == "more than 50 deletions within 600 s"
    assert admit(window, ["one more"], 61.0, ANY_SHARE)[0] == 0


def test_a_stop_names_twenty_keys_each_of_them_once() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    _, window = admit(window, keys(60)[50:], 1.0, ANY_SHARE)
    assert window.hold is not None
    assert (window.hold.count, window.hold.first) == (20, keys(60)[50:])
    _, window = admit(window, keys(40), 2.0, ANY_SHARE)
    assert window.hold is not None
    assert (window.hold.count, window.hold.first) == (60, keys(60)[50:] + keys(10))


def test_what_is_held_stays_held_when_the_window_has_moved_on() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    granted, window = admit(window, ["later"], 10_000.0, ANY_SHARE)
    assert granted == 0
    assert not window.is_idle(10_000.0, ANY_SHARE)
    assert needs_count(window, 1, 10_000.0, LIMITS) == 0, "what is held is not counted"


def test_limits_that_were_lowered_grant_nothing_and_take_nothing_back() -> None:
    _, window = admit(Window(), keys(50), 0.0, ANY_SHARE)
    lowered = ANY_SHARE.model_copy(update={"max_objects": 30})
    granted, window = admit(window, keys(40), 1.0, lowered)
    assert (granted, window.granted(1.0, lowered)) == (0, 50)
    assert window.hold is not None
    assert window.hold.count == 40


def test_approval_lifts_the_stop_and_counts_from_zero() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    assert admit(approve(window), keys(50), 1.0, ANY_SHARE)[0] == 50


def test_what_was_granted_just_before_an_approval_may_still_be_in_the_count_after_it() -> None:
    _, window = admit(Window(), keys(60), 0.0, ANY_SHARE)
    window = counted(approve(window), Count(listed=60, complete=True), 1.0, LIMITS)
    granted, window = admit(window, keys(5), 1.0, LIMITS)
    assert (granted, window.hold) == (0, None)
    window = counted(window, Count(listed=60, complete=True), 12.0, LIMITS)
    assert admit(window, keys(5), 12.0, LIMITS)[0] == 5


def test_a_slice_counts_until_all_of_it_has_left() -> None:
    _, window = admit(Window(), keys(50), 9.0, ANY_SHARE)
    assert admit(window, ["k"], 605.0, ANY_SHARE)[0] == 0
    assert admit(window, ["k"], 610.0, ANY_SHARE)[0] == 1


def test_a_window_stays_small_however_long_deletions_go_on() -> None:
    window, generous = Window(), ANY_SHARE.model_copy(update={"max_objects": 10_000})
    for now in range(2_000):
        granted, window = admit(window, ["k"], float(now), generous)
        assert granted == 1
        assert (len(window.slices) <= 61, len(window.late) <= 20) == (True, True)


def test_deletions_leave_the_window_with_time() -> None:
    _, window = admit(Window(), keys(50), 0.0, ANY_SHARE)
    assert admit(window, ["k"], 599.0, ANY_SHARE)[0] == 0
    assert admit(window, ["k"], 611.0, ANY_SHARE)[0] == 1
    assert window.is_idle(611.0, ANY_SHARE)


def test_replicas_are_counted_once_until_the_room_that_was_counted_is_used_up() -> None:
    assert needs_count(Window(), 1, 0.0, LIMITS) == FREE + 100
    assert needs_count(Window(), 1, 0.0, ANY_SHARE) == 0
    window = counted(Window(), Count(listed=40, complete=True), 0.0, LIMITS)
    granted, window = admit(window, keys(15), 1.0, LIMITS)
    assert granted == 15
    assert needs_count(window, 5, 2.0, LIMITS) == 0
    assert needs_count(window, 6, 2.0, LIMITS) > 0
    assert needs_count(window, 5, 601.0, LIMITS) > 0


def test_many_more_replicas_than_the_number_leave_the_share_out() -> None:
    window = counted(Window(), Count(listed=FREE + 100, complete=False), 0.0, LIMITS)
    assert admit(window, keys(50), 0.0, LIMITS)[0] == 50

    grown = counted(Window(), Count(listed=1_000, complete=False), 0.0, LIMITS)
    grown = counted(grown, Count(listed=FREE + 100, complete=False), 0.0, LIMITS)
    assert grown.left == 50, "a count that stopped early says nothing of how many were lost"


def test_the_highest_count_is_forgotten_with_its_window_however_often_it_is_counted_again() -> None:
    window = counted(Window(), Count(listed=80, complete=True), 0.0, LIMITS)
    for now in (300.0, 599.0):
        window = counted(window, Count(listed=45, complete=True), now, LIMITS)
        assert (window.peak, window.left) == (80, 5)
    window = counted(window, Count(listed=45, complete=True), 601.0, LIMITS)
    assert (window.peak, window.left) == (45, 22)


def test_more_than_half_of_the_route_is_stopped_and_named_so() -> None:
    window = counted(Window(), Count(listed=30, complete=True), 0.0, LIMITS)
    granted, window = admit(window, keys(24), 0.0, LIMITS)
    assert granted == 15
    assert window.hold is not None
    assert window.hold.reason == "more than 50 % of 30 replicas"


def test_a_few_of_a_few_may_always_go() -> None:
    window = counted(Window(), Count(listed=3, complete=True), 0.0, LIMITS)
    assert admit(window, keys(3), 0.0, LIMITS)[0] == 3


def test_permits_that_may_be_unused_hold_nothing_before_a_second_count() -> None:
    window = counted(Window(), Count(listed=30, complete=True), 0.0, LIMITS)
    _, window = admit(window, keys(14), 0.0, LIMITS)
    window = counted(window, Count(listed=30, complete=True), 1.0, LIMITS)
    granted, window = admit(window, keys(5), 1.0, LIMITS)
    assert (granted, window.hold) == (1, None)
    window = counted(window, Count(listed=15, complete=True), 20.0, LIMITS)
    granted, window = admit(window, keys(4), 20.0, LIMITS)
    assert granted == 0
    assert window.hold is not None


def test_objects_that_come_and_go_are_no_mass_deletion() -> None:
    window, generous = Window(), LIMITS.model_copy(update={"max_objects": 10_000})
    for turn in range(200):
        now = float(turn)
        if needs_count(window, 1, now, generous):
            window = counted(window, Count(listed=40, complete=True), now, generous)
        granted, window = admit(window, ["k"], now, generous)
        assert (granted, window.hold) == (1, None)


STEPS = st.lists(st.tuples(st.sampled_from([0.5, 20.0, 90.0]), st.integers(1, 30), st.integers(0, 10)), max_size=30)


@given(STEPS, st.integers(0, 120))
def test_no_window_loses_more_than_the_limits_allow(steps: list[tuple[float, int, int]], replicas: int) -> None:
    """Permits are used between ten seconds and one step later; new replicas come at any time."""
    window, now = Window(), 0.0
    granted: list[tuple[float, int]] = []
    unused: list[tuple[float, int]] = []
    standing, highest = replicas, replicas
    for pause, asked, new in steps:
        now += pause
        standing -= sum(count for at, count in unused if at <= now - 9.0)
        unused = [(at, count) for at, count in unused if at > now - 9.0]
        standing += new
        if enough := needs_count(window, asked, now, LIMITS):
            window = counted(window, Count(listed=min(standing, enough), complete=standing < enough), now, LIMITS)
        highest = max(highest, standing)
        number, window = admit(window, keys(asked), now, LIMITS)
        assert 0 <= number <= asked
        granted.append((now, number))
        unused.append((now, number))
        assert sum(count for at, count in granted if at > now - LIMITS.window_s) <= LIMITS.max_objects
        assert len(window.slices) <= 62
        assert window.peak is not None
        lost = window.peak - (standing - sum(count for _, count in unused))
        assert window.peak >= FREE + 100 or lost <= max(FREE, window.peak // 2)
