"""How the partitions of a pass share its objects at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.passes import objects_at_once

PARTITIONS = st.sets(st.integers(0, 400), min_size=1, max_size=8)


@given(st.integers(1, 100), PARTITIONS)
def test_the_shares_of_all_partitions_add_up_to_the_limit_and_differ_by_one_at_most(limit: int, partitions: set[int]) -> None:
    shares = [objects_at_once(limit, number, list(partitions)) for number in partitions]
    assert None not in shares
    counts = [share for share in shares if share is not None]
    assert sum(counts) == limit
    assert max(counts) - min(counts) <= 1


def test_a_partition_that_is_not_listed_yet_counts_as_one_more() -> None:
    assert [objects_at_once(4, number, [1, 2]) for number in (1, 2, 3)] == [2, 2, 1]
    assert objects_at_once(4, 0, []) == 4


def test_without_a_limit_there_is_no_share() -> None:
    assert objects_at_once(None, 1, [1, 2]) is None
