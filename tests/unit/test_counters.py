"""What the outcome of one object's own workflow adds to the counters of its pass."""

from __future__ import annotations

from replication.models import ReplicateObjectResult
from replication.passes import Counters, count_outcome


def test_a_large_object_that_went_while_the_pass_ran_is_a_replica_without_a_source() -> None:
    """So that what is left at the destination only stays what it is."""
    deleted = ReplicateObjectResult(route="r", key="k", outcome="deleted", reason="source-deleted")
    counters = count_outcome(Counters(extra=1), deleted)
    assert (counters.extra, counters.deleted, counters.left) == (2, 1, 1)


def test_what_was_copied_is_no_such_one() -> None:
    copied = ReplicateObjectResult(route="r", key="k", outcome="copied", reason="replica-absent", size_bytes=3)
    assert count_outcome(Counters(), copied) == Counters(copied=1, bytes_copied=3)
