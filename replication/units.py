"""Sizes and durations as people write them: `64MiB`, `1.5GiB`, `10MB`, `1048576`; `30s`, `1h30m`, `250ms`, `5`.

A bare number is bytes, or seconds. `MB` is a million bytes and `MiB` is 2^20; `64M` is refused, because tools disagree
about which of the two it is.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SIZES = {unit.lower(): 1024**power for power, unit in enumerate(_BINARY)}
_SIZES |= {unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb", "pb"), start=1)}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DURATION = re.compile("".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _MILLISECONDS))

MAX_SIZE = 1 << 60
MAX_DURATION_S = 10 * 365 * 86_400.0


def parse_size(value: object) -> int:
    """Bytes, from a whole number or a text with a unit. Raises ValueError, which never repeats the text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a size such as 64MiB, or a whole number of bytes")
    size = Fraction(value) if isinstance(value, int) else _size(value.strip())
    if size.denominator != 1:
        raise ValueError("is not a whole number of bytes")
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"must be between 0 and {format_size(MAX_SIZE)}")
    return int(size)


def _size(text: str) -> Fraction:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("must be a size such as 64MiB, or a whole number of bytes")
    number, unit = match.groups()
    if unit and unit.lower() not in _SIZES:
        raise ValueError(f"has no known unit of size (write one of {', '.join(_BINARY)}, kB, MB, GB, TB)")
    factor: int = _SIZES[unit.lower() or "b"]
    return Fraction(number) * factor


def format_size(size_bytes: int) -> str:
    """`64MiB`; with one decimal, and so rounded, where the size is no whole number of its unit: `1.5GiB`."""
    power = max(0, (size_bytes.bit_length() - 1) // 10)
    power = min(power, len(_BINARY) - 1)
    if power + 1 < len(_BINARY) and round(size_bytes / 1024**power, 1) >= 1024:
        power += 1
    whole, rest = divmod(size_bytes, 1024**power)
    return f"{whole}{_BINARY[power]}" if rest == 0 else f"{size_bytes / 1024**power:.1f}{_BINARY[power]}"


def parse_duration(value: object) -> float:
    """Seconds, from a number or a text of parts in descending units (`1d2h3m4s5ms`). Raises ValueError, which never
    repeats the text. Anything finer than a millisecond is rounded to one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a duration such as 30s or 1h30m, or a number of seconds")
    seconds = _milliseconds(value.strip()) / 1000 if isinstance(value, str) else float(value)
    if not 0 <= seconds <= MAX_DURATION_S:
        raise ValueError(f"must be between 0s and {format_duration(MAX_DURATION_S)}")
    return round(seconds, 3)


def _milliseconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(Fraction(text) * 1000)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError("must be a duration such as 30s or 1h30m, or a number of seconds")
    return float(sum(Fraction(part) * unit for part, unit in zip(match.groups(), _MILLISECONDS.values(), strict=True) if part))


def format_duration(seconds: float) -> str:
    """`1h30m`, `250ms`, `0s`: what `parse_duration` reads back, to the millisecond."""
    rest = round(abs(seconds) * 1000)
    text = "-" if seconds < 0 and rest else ""
    for unit, length in _MILLISECONDS.items():
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _positive_size(value: object) -> int:
    size = parse_size(value)
    if size == 0:
        raise ValueError("must be at least one byte")
    return size


Size = Annotated[int, BeforeValidator(_positive_size)]
"""A setting in bytes: at least one."""
Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
"""A setting in seconds: zero or more."""
