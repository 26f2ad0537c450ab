"""How much of a queue is held, and since when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.dispatch import Target
from ingest.held import Bounds, Held
from ingest.sqs_messages import Message


def message(receipt: str, *keys: str, sent_at: float = 0.0) -> Message:
    return Message(receipt, "", 1, sent_at, frozenset(Target("r", key) for key in keys))


def test_it_is_full_at_either_bound_and_has_room_again_below() -> None:
    held, hot = Held(Bounds(messages=3, targets=2)), [message(str(number), "hot") for number in range(3)]
    for one in hot:
        assert not held.is_full
        held.add(one, 0.0)
    assert held.is_full
    held.drop(hot[0])
    assert not held.is_full
    held.add(message("cold", "cold"), 0.0)
    held.drop(hot[1])
    assert held.is_full, "two objects are under way"
    held.drop(hot[2])
    assert not held.is_full


def test_a_lease_counts_from_its_last_renewal() -> None:
    held, early, late = Held(Bounds()), message("early"), message("late")
    held.add(early, 10.0)
    held.add(late, 20.0)
    assert held.leased_before(15.0) == [early]
    held.renew(early, 30.0)
    assert held.leased_before(15.0) == []
    held.drop(early)
    held.renew(early, 40.0)
    assert held.leased_before(50.0) == [late]
    with pytest.raises(KeyError):
        held.drop(early)


def test_the_oldest_is_the_one_that_was_sent_first() -> None:
    held = Held(Bounds())
    assert held.oldest_sent_at is None
    for one in (message("a", sent_at=7.0), message("b", sent_at=5.0), message("c", sent_at=6.0)):
        held.add(one, 0.0)
    assert held.oldest_sent_at == 5.0


@given(st.lists(st.frozensets(st.sampled_from("abc")), max_size=20))
def test_nothing_is_left_of_what_was_dropped(targets: list[frozenset[str]]) -> None:
    held = Held(Bounds(messages=100, targets=1))
    messages = [message(str(number), *keys) for number, keys in enumerate(targets)]
    for one in messages:
        held.add(one, 0.0)
    assert (held.most, held.most_targets) == (len(messages), len(frozenset().union(*targets)))
    for one in messages:
        held.drop(one)
    assert len(held) == 0
    assert not held.is_full
