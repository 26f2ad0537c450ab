"""The compose tree: every part exactly once, in order, at most 32 sources a call."""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import UploadLost
from replication.models import Part
from stores.checksum import crc32c
from stores.gcs_compose import FAN_IN, compose_rounds, intermediate_name, joined, pieces_of
from stores.gcs_resources import Piece, part_name, part_number


def folded(count: int) -> list[list[int]]:
    """What the last compose call would join: the part numbers inside each of its sources."""
    pieces = [[number] for number in range(count)]
    for spans in compose_rounds(count):
        pieces = [list(chain.from_iterable(pieces[first:last])) for first, last in spans]
    return pieces


@pytest.mark.parametrize(
    ("count", "rounds"), [(1, 0), (31, 0), (32, 0), (33, 1), (64, 1), (1024, 1), (1025, 2), (10_000, 2), (32_768, 2), (32_769, 3)]
)
def test_the_tree_is_as_flat_as_32_sources_a_call_allow(count: int, rounds: int) -> None:
    assert len(compose_rounds(count)) == rounds
    assert len(folded(count)) <= FAN_IN


@given(st.integers(1, 5000))
def test_the_tree_joins_every_part_once_and_in_order(count: int) -> None:
    assert list(chain.from_iterable(folded(count))) == list(range(count))
    assert all(0 < last - first <= FAN_IN for spans in compose_rounds(count) for first, last in spans)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=100))
def test_the_joined_checksum_is_that_of_the_joined_bytes(contents: list[bytes]) -> None:
    pieces = [Piece(str(n), "1", len(data), crc32c(data)) for n, data in enumerate(contents)]
    whole = joined("whole", pieces)
    assert (whole.size_bytes, whole.crc32c) == (sum(map(len, contents)), crc32c(b"".join(contents)))


def test_an_intermediate_is_never_taken_for_a_part() -> None:
    assert part_number(part_name("u", 7)) == 7
    assert part_number(part_name("u", 1_000_000)) == 1_000_000
    assert part_number(intermediate_name("u", 0, 7)) is None
    assert len({intermediate_name("u", level, index) for level in range(3) for index in range(400)}) == 1200


STORED = {part_name("u", n): Piece(part_name("u", n), str(100 + n), 5, n) for n in (1, 2, 10)}


def test_parts_are_joined_by_number_and_pinned_to_what_is_stored() -> None:
    parts = [Part(n, 5, crc32c=n) for n in (10, 1, 2)]
    random.Random(1).shuffle(parts)
    assert [piece.generation for piece in pieces_of(parts, "u", STORED)] == ["101", "102", "110"]


@pytest.mark.parametrize("part", [Part(3, 5), Part(1, 6), Part(1, 5, crc32c=9)])
def test_a_part_that_is_gone_or_other_than_known_loses_the_upload(part: Part) -> None:
    with pytest.raises(UploadLost):
        pieces_of([Part(2, 5), part], "u", STORED)


def test_parts_beyond_those_that_are_named_are_left_out() -> None:
    assert [piece.name for piece in pieces_of([Part(2, 5)], "u", STORED)] == [part_name("u", 2)]
