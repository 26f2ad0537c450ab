"""Sizes and durations, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.units import MAX_SIZE, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64MiB", 64 << 20),
        ("1.5GiB", 3 << 29),
        (1_048_576, 1 << 20),
        ("1048576", 1 << 20),
        ("10MB", 10_000_000),
        ("10 kB", 10_000),
        ("5TiB", 5 << 40),
        ("7B", 7),
        ("0", 0),
        ("64mib", 64 << 20),
    ],
)
def test_sizes_are_read_as_they_are_written(text: object, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["64M", "1.5", "0.3KiB", "-1", -1, "1e6", "", "MiB", "2000PiB", True, 1.0, None, "6 4MiB", "٣MiB"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"must|whole|unit"):
        parse_size(text)


@given(st.integers(0, MAX_SIZE))
def test_a_formatted_size_reads_back_within_its_rounding(size_bytes: int) -> None:
    text = format_size(size_bytes)
    number = text.rstrip("BKMGTPi")
    assert float(number) <= 1024
    shown = float(number) * 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB").index(text.removeprefix(number))
    assert abs(shown - size_bytes) <= 0.05 * max(1, size_bytes)
    if "." not in text:
        assert parse_size(text) == size_bytes


def test_a_size_just_below_a_unit_is_shown_in_that_unit() -> None:
    assert format_size((1 << 20) - 1) == "1.0MiB"
    assert format_size(1023) == "1023B"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1h30m", 5400),
        ("24h", 86_400),
        (5, 5),
        (0.25, 0.25),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("5", 5),
        ("0s", 0),
    ],
)
def test_durations_are_read_as_they_are_written(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "30m1h", "-5s", -5, "1w", "s", True, None, float("nan"), float("inf"), "1h 30m", 1e12])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_duration(text)


@given(st.integers(0, 10**11))
def test_a_formatted_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def test_refusals_never_repeat_the_text() -> None:
    for parse in (parse_size, parse_duration):
        with pytest.raises(ValueError, match="must") as refusal:
            parse("hunter2")
        assert "hunter2" not in str(refusal.value)
