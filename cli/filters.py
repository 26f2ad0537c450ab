"""The arguments of a pass that say which objects it looks at and how fast it may go."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from replication.errors import UsageError
from replication.globs import check_glob
from replication.keys import key_problem
from replication.passes import Filters, LimitUpdate
from replication.units import parse_duration, parse_size


@dataclass(frozen=True)
class Moment:
    """A point in time: seconds since 1970, or an age in seconds that counts from when the command runs."""

    at: float | None = None
    ago_s: float = 0.0

    def seconds(self, now: float) -> float:
        return now - self.ago_s if self.at is None else self.at


def add_filter_arguments(parser: argparse.ArgumentParser, *, prefix: bool = False) -> None:
    """`prefix` is for commands whose arguments name a route and no URL."""
    filters = parser.add_argument_group("which objects", "all conditions must hold; the same on both sides")
    if prefix:
        filters.add_argument("--prefix", type=_prefix, default="", metavar="PREFIX", help="of the key below the route's prefix")
    filters.add_argument(
        "--include", action="append", type=_glob, metavar="GLOB", help="keys to take, such as '**/*.jpg': a * ends at a /; repeatable"
    )
    filters.add_argument("--exclude", action="append", type=_glob, metavar="GLOB", help="keys to leave out, wins; repeatable")
    filters.add_argument("--min-size", type=_size, metavar="SIZE", help="64KiB, 10MB, bytes")
    filters.add_argument("--max-size", type=_size, metavar="SIZE")
    filters.add_argument(
        "--modified-after", type=_moment, metavar="TIME", help="2026-01-31T08:00:00Z, or an age such as 7d; of the source object"
    )
    filters.add_argument("--modified-before", type=_moment, metavar="TIME")
    filters.add_argument("--storage-class", action="append", type=_filled, metavar="CLASS", help="of the source object; repeatable")
    filters.add_argument("--start-after", type=_key, metavar="KEY", help="only keys after this full source key, in byte order")


def add_limit_arguments(parser: argparse.ArgumentParser, *, lifts: bool = False) -> None:
    """With `lifts`, 0 and `off` are taken too: no limit."""
    limits = parser.add_argument_group("how fast", "0 or off lifts a limit" if lifts else None)

    def limit(parse: Callable[[str], float]) -> Callable[[str], float]:
        return _or_off(parse) if lifts else parse

    limits.add_argument("--concurrency", type=limit(count), metavar="N", help="objects at once")
    limits.add_argument("--bandwidth", type=limit(_bandwidth), metavar="SIZE/s", help="such as 10MiB/s, over all objects together")
    limits.add_argument("--requests", type=limit(_requests), metavar="N/s", help="requests to the stores, such as 200/s")


def filters_of(options: argparse.Namespace, clock: Callable[[], float] = time.time) -> Filters:
    """Raises `UsageError` for bounds between which nothing lies."""
    now = clock()
    found = Filters(
        prefix=getattr(options, "prefix", ""),
        include=options.include or [],
        exclude=options.exclude or [],
        min_size=options.min_size,
        max_size=options.max_size,
        modified_after=options.modified_after and options.modified_after.seconds(now),
        modified_before=options.modified_before and options.modified_before.seconds(now),
        storage_classes=options.storage_class or [],
        start_after=options.start_after or "",
    )
    if found.min_size is not None and found.max_size is not None and found.max_size < found.min_size:
        raise UsageError("argument --max-size: is less than --min-size")
    if found.modified_after is not None and found.modified_before is not None and found.modified_before <= found.modified_after:
        raise UsageError("argument --modified-before: is not after --modified-after")
    return found


def limits_of(options: argparse.Namespace) -> LimitUpdate:
    return LimitUpdate(concurrency=options.concurrency, bytes_per_s=options.bandwidth, requests_per_s=options.requests)


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def _or_off(parse: Callable[[str], float]) -> Callable[[str], float]:
    return lambda text: 0 if text.removesuffix("/s") in ("0", "off") else parse(text)


def _requests(text: str) -> float:
    number = text.strip().removesuffix("/s")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", number) or float(number) == 0:
        raise argparse.ArgumentTypeError("must be a number of requests a second above 0, such as 200/s")
    return float(number)


def _prefix(text: str) -> str:
    return _key(text) if text else ""


def _key(text: str) -> str:
    if problem := key_problem(text):
        raise argparse.ArgumentTypeError(problem)
    return text


def _glob(text: str) -> str:
    try:
        text.encode()
        return check_glob(text)
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _filled(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise argparse.ArgumentTypeError("must be the name of a storage class, such as STANDARD")
    return text


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bandwidth(text: str) -> float:
    size = _size(text.strip().removesuffix("/s"))
    if size == 0:
        raise argparse.ArgumentTypeError("must be at least one byte a second")
    return float(size)


def since(text: str) -> Moment | Literal["last"]:
    """A moment, or the word for the last verification."""
    return "last" if text == "last" else _moment(text)


def _moment(text: str) -> Moment:
    """A date of RFC 3339 begins with four digits and a hyphen; no duration does. A bare number could be either."""
    if re.match(r"[0-9]{4}-", text):
        return Moment(at=_instant(text))
    if re.fullmatch(r"[0-9.]*", text.strip()):
        raise argparse.ArgumentTypeError("must be a time such as 2026-01-31T08:00:00Z, or an age with its unit such as 7d")
    try:
        return Moment(ago_s=parse_duration(text))
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time such as 2026-01-31T08:00:00Z, or an age such as 7d") from None


_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?")


def _instant(text: str) -> float:
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("must be a time as in RFC 3339, such as 2026-01-31T08:00:00Z")
    if match["zone"] is None:
        raise argparse.ArgumentTypeError("must have a zone: Z, or an offset such as +02:00")
    try:
        # Later than a microsecond is cut: Python 3.11 reads six digits at most.
        found = datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text.upper()))
        return found.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):  # at the ends of the calendar an offset leads out of it
        raise argparse.ArgumentTypeError("is no time that exists") from None
