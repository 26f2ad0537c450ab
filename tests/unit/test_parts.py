"""Part plans: the ladder of part sizes, boundaries, exact tiling, runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import ObjectTooLarge
from replication.limits import FILE_LIMITS, GCS_LIMITS, GIB, MIB, S3_LIMITS, TIB, Limits
from replication.models import ABSENT, Attributes, Checksums, CopyPlan, Version
from replication.parts import MAX_RUNS, PartPlan, choose_part_size, part_range, plan_parts, run_parts, run_range

LIMITS = st.sampled_from([S3_LIMITS, GCS_LIMITS, FILE_LIMITS])
KNOBS = st.fixed_dictionaries(
    {
        "one_shot_max": st.none() | st.integers(0, 8 * GIB),
        "part_size": st.none() | st.integers(1 * MIB, 6 * GIB),
        "concurrency": st.integers(1, 64),
        "streams": st.integers(1, 32),
    }
)


@pytest.mark.parametrize(
    ("size", "part_size", "part_count"),
    [
        (64 * MIB + 1, 64 * MIB, 2),
        (671_088_640_000, 64 * MIB, 10_000),
        (671_088_640_001, 65 * MIB, 9_847),
        (5 * TIB, 525 * MIB, 9_987),
        (50_000_000_000_000, 4769 * MIB, 9_999),
    ],
)
def test_s3_parts_follow_the_ladder(size: int, part_size: int, part_count: int) -> None:
    plan = plan_parts(size, destination_limits=S3_LIMITS)
    assert (plan.mode, plan.part_size, plan.part_count) == ("parts", part_size, part_count)


@pytest.mark.parametrize(("limits", "edge"), [(S3_LIMITS, 64 * MIB), (GCS_LIMITS, 640 * MIB), (FILE_LIMITS, 64 * MIB)])
def test_the_one_shot_boundary_is_inclusive(limits: Limits, edge: int) -> None:
    modes = [plan_parts(size, destination_limits=limits).mode for size in (0, 1, edge - 1, edge, edge + 1)]
    assert modes == ["object", "object", "object", "object", "parts"]
    assert plan_parts(edge + 1, destination_limits=limits).part_count == 2


def test_a_request_never_exceeds_what_one_put_can_hold() -> None:
    assert plan_parts(5 * GIB, destination_limits=S3_LIMITS, one_shot_max=9 * GIB).mode == "object"
    assert plan_parts(5 * GIB + 1, destination_limits=S3_LIMITS, one_shot_max=9 * GIB).mode == "parts"


def test_zero_bytes_are_one_request_whatever_is_configured() -> None:
    assert plan_parts(0, destination_limits=S3_LIMITS, one_shot_max=0) == PartPlan("object")


def test_a_server_side_copy_is_one_request_up_to_the_stores_limit() -> None:
    assert plan_parts(5 * GIB, destination_limits=S3_LIMITS, server_side=True, one_shot_max=1).mode == "object"
    assert plan_parts(5 * GIB + 1, destination_limits=S3_LIMITS, server_side=True).part_count == 81
    assert plan_parts(5 * TIB, destination_limits=GCS_LIMITS, server_side=True).mode == "object"


def test_gcs_takes_five_tebibytes_and_not_a_byte_more() -> None:
    assert plan_parts(5 * TIB, destination_limits=GCS_LIMITS).part_count == 8_192
    with pytest.raises(ObjectTooLarge):
        plan_parts(5 * TIB + 1, destination_limits=GCS_LIMITS)


def test_what_the_parts_cannot_hold_is_too_large() -> None:
    small = replace(S3_LIMITS, min_part_size=5, default_part_size=5, max_part_size=8, max_parts=4, max_put_size=5)
    assert plan_parts(32, destination_limits=small).part_count == 4
    with pytest.raises(ObjectTooLarge):
        plan_parts(33, destination_limits=small)


def test_a_configured_part_size_is_kept_within_the_limits() -> None:
    assert choose_part_size(GIB, S3_LIMITS, 8 * MIB) == 8 * MIB
    assert choose_part_size(GIB, S3_LIMITS, 1) == 5 * MIB
    assert choose_part_size(TIB, S3_LIMITS, 6 * GIB) == 5 * GIB
    assert choose_part_size(80_000 * MIB + 1, S3_LIMITS, 8 * MIB) == 9 * MIB
    assert choose_part_size(10_000 * 7_000_000, S3_LIMITS, 7_000_000) == 7_000_000


@given(st.integers(1, 10_000), st.sampled_from([5 * MIB, 8 * MIB, 64 * MIB]))
def test_k_times_the_part_size_gives_exactly_k_parts(count: int, part_size: int) -> None:
    plan = plan_parts(count * part_size, destination_limits=S3_LIMITS, part_size=part_size, one_shot_max=0)
    assert (plan.part_size, plan.part_count) == (part_size, count)
    if count > 1:
        assert plan_parts(count * part_size - 1, destination_limits=S3_LIMITS, part_size=part_size, one_shot_max=0).part_count == count


@given(st.data(), LIMITS, KNOBS, st.booleans())
def test_parts_and_runs_tile_the_object_exactly(data: st.DataObject, limits: Limits, knobs: dict[str, int], server_side: bool) -> None:
    size = data.draw(st.integers(0, min(limits.max_object_size, 60 * TIB)))
    plan = plan_parts(size, destination_limits=limits, server_side=server_side, **knobs)
    if plan.mode == "object":
        assert size <= (limits.max_copy_size if server_side else limits.max_put_size)
        assert plan == PartPlan("object")
        return
    assert limits.min_part_size <= plan.part_size <= limits.max_part_size
    assert 1 <= plan.part_count <= limits.max_parts
    assert 1 <= plan.run_count <= MAX_RUNS
    assert 1 <= plan.runs_in_flight <= min(knobs["concurrency"], plan.run_count)
    assert plan.run_length >= min(plan.part_count, knobs["streams"])
    next_part = next_offset = 0
    for index in range(plan.run_count):
        first, last = run_parts(plan, index)
        offset, length = run_range(plan, size, index)
        assert (first, offset) == (next_part + 1, next_offset)
        assert length > 0
        assert length <= plan.part_size * (last - first + 1)
        next_part, next_offset = last, offset + length
    assert (next_part, next_offset) == (plan.part_count, size)


@given(st.integers(1, 4000), st.integers(1, 40))
def test_part_ranges_follow_one_another(size: int, part_size: int) -> None:
    plan = PartPlan("parts", part_size, -(-size // part_size))
    ranges = [part_range(plan, size, number) for number in range(1, plan.part_count + 1)]
    assert [offset for offset, _ in ranges] == list(range(0, size, part_size))
    assert sum(length for _, length in ranges) == size
    assert all(length == part_size for _, length in ranges[:-1])


@pytest.mark.parametrize(
    ("count", "streams", "run_length", "run_count"),
    [(1, 4, 1, 1), (4, 4, 4, 1), (5, 4, 4, 2), (16, 4, 4, 4), (800, 4, 4, 200), (801, 4, 5, 161), (10_000, 4, 50, 200), (3, 0, 1, 3)],
)
def test_runs_keep_the_streams_busy_and_the_history_short(count: int, streams: int, run_length: int, run_count: int) -> None:
    plan = plan_parts(count * 5 * MIB, destination_limits=S3_LIMITS, part_size=5 * MIB, one_shot_max=0, streams=streams)
    assert (plan.run_length, plan.run_count) == (run_length, run_count)


def test_numbers_outside_a_plan_are_refused() -> None:
    plan = PartPlan("parts", 10, 3, 2)
    for number in (0, 4):
        with pytest.raises(ValueError, match="of 3"):
            part_range(plan, 30, number)
    for index in (-1, 2):
        with pytest.raises(ValueError, match="of 2"):
            run_parts(plan, index)
    with pytest.raises(ValueError, match="of 0"):
        part_range(PartPlan("object"), 30, 1)


def test_a_persisted_plan_has_the_same_parts() -> None:
    plan = plan_parts(GIB + 1, destination_limits=S3_LIMITS, streams=3)
    kept = CopyPlan(
        mode=plan.mode,
        server_side=False,
        source=Version(GIB + 1),
        checksums=Checksums(),
        condition=ABSENT,
        attributes=Attributes(),
        copy_id="c",
        epoch="e",
        part_size=plan.part_size,
        part_count=plan.part_count,
        run_length=plan.run_length,
        runs_in_flight=plan.runs_in_flight,
    )
    kept = CopyPlan.model_validate_json(kept.model_dump_json())
    assert kept.run_count == plan.run_count
    assert all(run_range(kept, GIB + 1, n) == run_range(plan, GIB + 1, n) for n in range(plan.run_count))
