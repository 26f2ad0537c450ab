"""How the bytes of one object travel: in one request, or as parts that runs of parts carry over.

A run is what one activity copies: enough parts to keep its streams busy, and few enough runs that the history of one
object stays small whatever its size. A plan is made once for a copy and kept; retries never make another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from replication.errors import ObjectTooLarge
from replication.limits import MIB, Limits

MAX_RUNS = 200
"""Runs of one object at most: about 600 history events, far below the 51,200 that Temporal allows."""


class PartLayout(Protocol):
    """What the arithmetic below needs; both `PartPlan` and the persisted `CopyPlan` have it."""

    @property
    def part_size(self) -> int: ...
    @property
    def part_count(self) -> int: ...
    @property
    def run_length(self) -> int: ...
    @property
    def run_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PartPlan:
    """`object`: one request and no parts. `parts`: all parts are `part_size` bytes long but for the last one."""

    mode: Literal["object", "parts"]
    part_size: int = 0
    part_count: int = 0
    run_length: int = 1
    runs_in_flight: int = 1

    @property
    def run_count(self) -> int:
        return -(-self.part_count // self.run_length)


def check_size(size: int, limits: Limits) -> None:
    """Raises `ObjectTooLarge` for what a destination of these limits cannot hold, in whatever parts."""
    if size > limits.max_object_size:
        raise ObjectTooLarge(f"the object has {size} bytes, the destination holds at most {limits.max_object_size}")


def plan_parts(
    size: int,
    *,
    destination_limits: Limits,
    one_shot_max: int | None = None,
    part_size: int | None = None,
    concurrency: int = 8,
    streams: int = 4,
    server_side: bool = False,
) -> PartPlan:
    """The plan for `size` bytes; raises `ObjectTooLarge` for what the destination cannot hold.

    Up to `one_shot_max` bytes (the destination's default part size unless set) go in one request. A server-side copy
    is one request as long as the store allows it: it moves no bytes through us, and GCS has no copy of a range.
    `concurrency` runs are in flight at once, each with `streams` parts.
    """
    limits = destination_limits
    check_size(size, limits)
    if size <= _one_shot_limit(limits, one_shot_max, server_side=server_side):
        return PartPlan("object")
    chosen = choose_part_size(size, limits, part_size)
    count = -(-size // chosen)
    run_length = min(count, max(streams, -(-count // MAX_RUNS), 1))
    return PartPlan("parts", chosen, count, run_length, runs_in_flight=max(1, min(concurrency, -(-count // run_length))))


def choose_part_size(size: int, limits: Limits, wanted: int | None = None) -> int:
    """The wanted (or default) part size, raised in whole MiB where the object would have too many parts.

    For S3 this is 64 MiB up to 640,000 MiB, then ceil(size / 10,000) rounded up to 1 MiB: uploaders that follow the
    same rule arrive at the same multipart ETag.
    """
    chosen = min(max(wanted or limits.default_part_size, limits.min_part_size), limits.max_part_size)
    if size > chosen * limits.max_parts:
        least = -(-size // limits.max_parts)
        chosen = min(-(-least // MIB) * MIB, limits.max_part_size)
    if size > chosen * limits.max_parts:
        most = limits.max_part_size * limits.max_parts
        raise ObjectTooLarge(f"the object has {size} bytes, the parts of an upload to the destination hold at most {most}")
    return chosen


def part_range(plan: PartLayout, size: int, number: int) -> tuple[int, int]:
    """(offset, length) of part `number`, 1-based, of an object of `size` bytes."""
    if not 1 <= number <= plan.part_count:
        raise ValueError(f"part {number} of {plan.part_count}")
    offset = (number - 1) * plan.part_size
    return offset, min(plan.part_size, size - offset)


def run_parts(plan: PartLayout, index: int) -> tuple[int, int]:
    """(first, last) part numbers, 1-based and inclusive, of run `index`, 0-based."""
    if not 0 <= index < plan.run_count:
        raise ValueError(f"run {index} of {plan.run_count}")
    first = index * plan.run_length + 1
    return first, min(first + plan.run_length - 1, plan.part_count)


def run_range(plan: PartLayout, size: int, index: int) -> tuple[int, int]:
    """(offset, length) of the bytes of run `index`: what its CRC covers."""
    first, last = run_parts(plan, index)
    start, _ = part_range(plan, size, first)
    offset, length = part_range(plan, size, last)
    return start, offset + length - start


def _one_shot_limit(limits: Limits, one_shot_max: int | None, *, server_side: bool) -> int:
    if server_side:
        return limits.max_copy_size
    return min(limits.default_part_size if one_shot_max is None else one_shot_max, limits.max_put_size)
