"""Checksums against their published check values, and their combination against the checksum of the whole."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from replication.models import Checksums
from stores.checksum import Digest, combine, combine_crc32c, crc32c, decode_crc, encode_crc

CHECK = b"123456789"
"""The input of every CRC's check value in the catalogue of parametrised CRC algorithms."""

PIECES = st.lists(st.binary(max_size=200), max_size=8)


def test_crc32c_has_its_published_check_value() -> None:
    assert crc32c(CHECK) == 0xE3069283
    assert crc32c(b"") == 0


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        (Checksums(crc64nvme=1), Checksums(crc32c=0xE3069283, crc64nvme=0xAE8B14860A799888)),
        (Checksums(crc32=1), Checksums(crc32c=0xE3069283, crc32=0xCBF43926)),
    ],
)
def test_the_source_s_own_kind_is_computed_where_it_has_no_crc32c(like: Checksums, expected: Checksums) -> None:
    digest = Digest(like=like)
    digest.update(CHECK)
    assert digest.checksums() == expected


def test_no_other_kind_is_computed_where_the_source_has_crc32c() -> None:
    digest = Digest(like=Checksums(crc32c=1, crc64nvme=1, crc32=1, md5="0" * 32), md5=True)
    digest.update(CHECK)
    assert digest.checksums() == Checksums(crc32c=0xE3069283)


def test_md5_is_computed_only_on_demand_and_where_nothing_better_is() -> None:
    asked, not_asked = Digest(like=Checksums(md5="0" * 32), md5=True), Digest(like=Checksums(md5="0" * 32))
    for digest in (asked, not_asked):
        digest.update(CHECK)
    assert asked.checksums().md5 == hashlib.md5(CHECK, usedforsecurity=False).hexdigest()
    assert not_asked.checksums().md5 is None


@given(PIECES)
def test_chunks_do_not_show_in_the_digest(pieces: list[bytes]) -> None:
    digest = Digest(like=Checksums(crc32=1))
    for piece in pieces:
        digest.update(piece)
    whole = b"".join(pieces)
    assert (digest.size_bytes, digest.crc32c, digest.checksums().crc32) == (len(whole), crc32c(whole), zlib.crc32(whole))


@given(PIECES)
def test_the_combination_of_parts_is_the_checksum_of_the_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert combine_crc32c([(crc32c(piece), len(piece)) for piece in pieces]) == crc32c(whole)
    assert combine("crc32", [(zlib.crc32(piece), len(piece)) for piece in pieces]) == zlib.crc32(whole)
    assert combine("crc64nvme", [(crt.crc64nvme(piece), len(piece)) for piece in pieces]) == crt.crc64nvme(whole)


def test_parts_in_another_order_have_another_checksum() -> None:
    one, two = (crc32c(b"one"), 3), (crc32c(b"two"), 3)
    assert combine_crc32c([one, two]) != combine_crc32c([two, one])


def test_one_unknown_part_makes_the_whole_unknown() -> None:
    assert combine("crc32c", [(1, 3), (None, 3), (2, 3)]) is None


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_written_checksum_reads_as_it_was(short: int, long: int) -> None:
    assert decode_crc(encode_crc(short)) == short
    assert decode_crc(encode_crc(long, 8), 8) == long


def test_the_written_form_is_that_of_s3_and_gcs() -> None:
    assert encode_crc(0xE3069283) == "4waSgw=="


@pytest.mark.parametrize("text", ["", "4waSgw==-3", "not base64", "4waSg", "4waS", "AAAAAOMGkoM=", "AA" * 40_000])
def test_what_is_no_full_object_checksum_is_none(text: str) -> None:
    assert decode_crc(text) is None
