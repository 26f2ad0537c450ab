"""`since`: what a verification leaves out for its times."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import pytest

from cli.filters import Moment, since
from replication.models import ListedObject, Version
from replication.passes import Filters


def at(second: float | None) -> ListedObject:
    return ListedObject("k", Version(1, modified=None if second is None else datetime.fromtimestamp(second, UTC)))


@pytest.mark.parametrize(
    ("source", "replica", "looked_at"),
    [
        (at(11), at(5), True),
        (at(5), at(11), True),
        (at(5), at(10), False),
        (at(5), None, False),
        (None, at(11), True),
        (None, at(5), False),
        (at(None), at(5), True),
    ],
)
def test_a_change_on_either_side_counts(source: ListedObject | None, replica: ListedObject | None, looked_at: bool) -> None:
    assert Filters(since=10.0).admits_change(source, replica) is looked_at
    assert Filters().admits_change(source, replica)


def test_replicas_without_a_source_are_still_told() -> None:
    assert not Filters(since=10.0).by_object
    assert Filters(modified_after=10.0).by_object


@pytest.mark.parametrize("told", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_first_and_the_last_time_that_a_store_can_tell_are_compared(told: str) -> None:
    listed = ListedObject("k", Version(1, modified=datetime.fromisoformat(told)))
    assert Filters(modified_after=10.0).admits(listed) is told.startswith("9999")


def test_since_is_a_time_an_age_or_the_last_verification() -> None:
    assert since("last") == "last"
    assert since("7d") == Moment(ago_s=7 * 86_400.0)
    assert since("1970-01-01T00:00:10Z") == Moment(at=10.0)
    with pytest.raises(argparse.ArgumentTypeError):
        since("first")
