"""The arguments that choose objects and limit speed: every form that is read, and every refusal."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from cli.filters import add_filter_arguments, add_limit_arguments, filters_of, limits_of
from replication.errors import UsageError
from replication.passes import Filters, LimitUpdate

NOW = 1_800_000_000.0
DAY_S = 86_400.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="test", allow_abbrev=False)
    add_filter_arguments(made, prefix=True)
    add_limit_arguments(made)
    return made


def filters(*arguments: str) -> Filters:
    return filters_of(parser().parse_args(arguments), lambda: NOW)


PARSES: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--prefix", "a/"], {"prefix": "a/"}),
    (["--prefix", ""], {}),
    (["--include", "*.jpg", "--include", "**/b"], {"include": ["*.jpg", "**/b"]}),
    (["--exclude", "[!a]?"], {"exclude": ["[!a]?"]}),
    (["--min-size", "0"], {"min_size": 0}),
    (["--min-size", "64KiB", "--max-size", "1MB"], {"min_size": 65_536, "max_size": 1_000_000}),
    (["--min-size", "5", "--max-size", "5"], {"min_size": 5, "max_size": 5}),
    (["--modified-after", "2026-01-31T08:00:00Z"], {"modified_after": 1_769_846_400.0}),
    (["--modified-after", "2026-01-31t08:00:00.5z"], {"modified_after": 1_769_846_400.5}),
    (["--modified-after", "2026-01-31 10:00:00+02:00"], {"modified_after": 1_769_846_400.0}),
    (["--modified-before", "2026-01-31T08:00:00.123456789-00:00"], {"modified_before": 1_769_846_400.123456}),
    (["--modified-before", "7d"], {"modified_before": NOW - 7 * DAY_S}),
    (["--modified-after", "1h30m", "--modified-before", "1m"], {"modified_after": NOW - 5400, "modified_before": NOW - 60}),
    (["--modified-after", "1970-01-01T00:00:00Z"], {"modified_after": 0.0}),
    (["--storage-class", "STANDARD", "--storage-class", "GLACIER_IR"], {"storage_classes": ["STANDARD", "GLACIER_IR"]}),
    (["--start-after", "a b/%20"], {"start_after": "a b/%20"}),
]


@pytest.mark.parametrize(("arguments", "expected"), PARSES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_arguments_mean(arguments: list[str], expected: dict[str, Any]) -> None:
    assert filters(*arguments) == Filters(**expected)


REFUSALS: list[tuple[str, str, str]] = [
    ("--prefix", "k" * 1025, "1025 bytes"),
    ("--include", "", "is an empty pattern"),
    ("--include", "a[b", "has a [ without its ]"),
    ("--include", "[z-a]", "not in order"),
    ("--exclude", "\udcff", "is not valid UTF-8"),
    ("--min-size", "64M", "no known unit"),
    ("--min-size", "-1", "must be a size"),
    ("--max-size", "big", "must be a size"),
    ("--max-size", "0.3", "not a whole number of bytes"),
    ("--modified-after", "yesterday", "must be a time such as"),
    ("--modified-after", "7", "an age with its unit"),
    ("--modified-after", "", "an age with its unit"),
    ("--modified-after", "7w", "must be a time such as"),
    ("--modified-after", "2026-01-31", "as in RFC 3339"),
    ("--modified-after", "2026-01-31T08:00:00", "must have a zone"),
    ("--modified-before", "2026-02-30T08:00:00Z", "is no time that exists"),
    ("--modified-before", "2026-01-31T25:00:00Z", "is no time that exists"),
    ("--modified-before", "2026-01-31T08:00:00+99:00", "is no time that exists"),
    ("--storage-class", "", "must be the name of a storage class"),
    ("--storage-class", "STANDARD,GLACIER", "must be the name of a storage class"),
    ("--start-after", "", "the key is empty"),
    ("--start-after", "k" * 1025, "1025 bytes"),
    ("--concurrency", "0", "at least 1"),
    ("--concurrency", "1.5", "at least 1"),
    ("--concurrency", "²", "at least 1"),
    ("--bandwidth", "0", "at least one byte"),
    ("--bandwidth", "fast", "must be a size"),
    ("--bandwidth", "10MiB/m", "must be a size"),
]


@pytest.mark.parametrize(("option", "value", "said"), REFUSALS)
def test_a_refusal_names_the_argument(option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([option, value])

    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"test: error: argument {option}: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-size", "2", "--max-size", "1"], "argument --max-size: is less than --min-size"),
        (["--modified-after", "1d", "--modified-before", "2d"], "argument --modified-before: is not after --modified-after"),
        (["--modified-after", "1d", "--modified-before", "1d"], "argument --modified-before: is not after --modified-after"),
    ],
)
def test_bounds_between_which_nothing_lies_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}$"):
        filters(*arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], LimitUpdate()),
        (["--concurrency", "7"], LimitUpdate(concurrency=7)),
        (["--bandwidth", "10MiB/s"], LimitUpdate(bytes_per_s=10 * 1024 * 1024)),
        (["--bandwidth", "500kB"], LimitUpdate(bytes_per_s=500_000)),
    ],
)
def test_limits_mean(arguments: list[str], expected: LimitUpdate) -> None:
    assert limits_of(parser().parse_args(arguments)) == expected


def test_a_command_whose_arguments_are_urls_has_no_prefix() -> None:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_filter_arguments(made)
    assert filters_of(made.parse_args([])) == Filters()
    assert "--prefix" not in made.format_help()
