"""Which parts of an interrupted run count as sent."""

from __future__ import annotations

import pytest

from replication.models import Part
from replication.resume import KnownPart, resumable

SIZES = {1: 10, 2: 4}


@pytest.mark.parametrize("trusted", [True, False])
def test_a_part_that_was_recorded_and_stands_as_it_was_counts(trusted: bool) -> None:
    recorded = KnownPart(1, 10, "e", 7, 8)
    assert resumable([Part(1, 10, "e")], [recorded], SIZES, trusted=trusted) == {1: recorded}


@pytest.mark.parametrize(("trusted", "crc32c", "counts"), [(True, 7, True), (False, 7, False), (True, None, False)])
def test_a_part_that_nobody_recorded_counts_by_a_trusted_checksum_only(trusted: bool, crc32c: int | None, counts: bool) -> None:
    found = resumable([Part(1, 10, "e", crc32c)], [], SIZES, trusted=trusted)
    assert found == ({1: KnownPart(1, 10, "e", crc32c)} if counts else {})


@pytest.mark.parametrize("listed", [Part(1, 9, "e", 7), Part(3, 10, "e", 7), Part(2, 10, "e", 7)], ids=["cut", "unplanned", "too-long"])
def test_a_part_of_another_length_is_sent_again(listed: Part) -> None:
    assert resumable([listed], [KnownPart(1, 10, "e", 7)], SIZES, trusted=True) == {}


def test_a_record_of_what_was_replaced_since_is_not_believed() -> None:
    assert resumable([Part(1, 10, "later")], [KnownPart(1, 10, "e", 7)], SIZES, trusted=False) == {}
