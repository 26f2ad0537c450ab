"""The missing references as text: exact, short, and refusing what it did not write."""

from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.manifests.documents import MAX_REFERENCES
from replication.manifests.found import decode_missing, encode_missing

KIB = 1024


@st.composite
def some_of(draw: st.DrawFn) -> tuple[list[int], int]:
    total = draw(st.integers(0, 5_000))
    density = draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 0.95, 0.999, 1.0]))
    rng = random.Random(draw(st.integers(0, 2**32)))
    return [position for position in range(total) if rng.random() < density], total


@given(some_of())
def test_what_is_encoded_is_decoded(case: tuple[list[int], int]) -> None:
    missing, total = case
    text = encode_missing(reversed(missing), total)
    assert text.isascii()
    assert decode_missing(text, total) == missing


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_worst_case_fits_into_240_kib(share: float) -> None:
    rng = random.Random(7)
    missing = [position for position in range(MAX_REFERENCES) if rng.random() < share]
    text = encode_missing(missing, MAX_REFERENCES)
    assert len(text) <= 240 * KIB
    assert decode_missing(text, MAX_REFERENCES) == missing


def test_few_nearly_all_and_regular_are_tiny() -> None:
    everything = range(MAX_REFERENCES)
    few = random.Random(3).sample(everything, 20)
    for missing in ([], everything, few, sorted(set(everything).difference(few)), range(700_000), range(0, MAX_REFERENCES, 2)):
        text = encode_missing(missing, MAX_REFERENCES)
        assert len(text) < KIB
        assert decode_missing(text, MAX_REFERENCES) == sorted(missing)


@pytest.mark.parametrize(("missing", "total"), [([3], 3), ([-1], 3), ([0], 0)])
def test_a_position_that_is_none_is_refused(missing: list[int], total: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        encode_missing(missing, total)


def code(bitmap: bytes) -> str:
    return base64.b85encode(zlib.compress(bitmap)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base85 \x00",
        "m\u00e9",
        base64.b85encode(b"not zlib").decode(),
        code(b"\x01\x00")[:-5],
        code(b"\x01"),
        code(b"\x01\x00\x00"),
        code(b"\x00\x04"),
        code(bytes(10_000_000)),
        encode_missing([1], 20),
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_missing(text, 10)


@given(st.text() | st.binary().map(code) | st.binary().map(base64.b85encode).map(bytes.decode), st.integers(0, 200))
def test_no_text_does_anything_but_decode_or_be_refused(text: str, total: int) -> None:
    try:
        missing = decode_missing(text, total)
    except ValueError:
        return
    assert missing == sorted(set(missing))
    assert all(0 <= position < total for position in missing)
