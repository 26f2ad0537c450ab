"""Workflow ids: short, readable where they can be, and never the same for two keys."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replication.ids import (
    HOUSEKEEPING_ID,
    ObjectId,
    new_copy_id,
    object_of_id,
    object_workflow_id,
    partition_id,
    reconcile_id,
    verify_id,
)

ROUTES = st.from_regex(r"[a-z0-9][a-z0-9\-_.]{0,62}", fullmatch=True)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


@given(ROUTES, KEYS)
@example("r" * 63, "k" * 1024)
@example("r", "é" * 512)
def test_an_object_id_is_at_most_200_bytes_and_one_readable_line(route: str, key: str) -> None:
    workflow_id = object_workflow_id(route, key)
    assert len(workflow_id.encode()) <= 200
    assert workflow_id.splitlines() == [workflow_id]
    assert workflow_id == workflow_id.strip()


@given(ROUTES, ROUTES, KEYS, KEYS)
@example("r", "r", "a", "a ")
@example("r", "r", "a", "a\n")
@example("r", "r", "é", "e\u0301")
def test_two_objects_never_share_an_id(route: str, other_route: str, key: str, other_key: str) -> None:
    same = (route, key) == (other_route, other_key)
    assert (object_workflow_id(route, key) == object_workflow_id(other_route, other_key)) == same


@given(KEYS)
def test_a_key_that_looks_like_a_hashed_one_cannot_take_its_id(key: str) -> None:
    hashed = object_workflow_id("r", key + "\n").removeprefix("object:r:")
    assert hashed.startswith("sha256~")
    assert object_workflow_id("r", hashed) != f"object:r:{hashed}"


@given(ROUTES, KEYS)
def test_an_object_id_tells_its_route_and_its_key_where_it_can(route: str, key: str) -> None:
    workflow_id = object_workflow_id(route, key)
    assert object_of_id(workflow_id) in (ObjectId(route, key), ObjectId(route, None))
    assert (object_of_id(workflow_id) == ObjectId(route, None)) == workflow_id.startswith(f"object:{route}:sha256~")


@pytest.mark.parametrize("key", ["a", "a//b", "dir/", "../x", "a b", "+", "%2F", "a:b", "ключ", "e\u0301", "🦆"])
def test_ordinary_and_odd_keys_stay_readable(key: str) -> None:
    assert object_workflow_id("photos", key) == f"object:photos:{key}"


@pytest.mark.parametrize(
    "key", [" a", "a ", "a\nb", "a\tb", "\x7f", "\u0085", "a\u00a0b", "\u202eexe", "\u2028", "\ufeff", "\ud800", "sha256~x", "k" * 187]
)
def test_long_and_unreadable_keys_are_hashed(key: str) -> None:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    assert object_workflow_id("photos", key) == f"object:photos:sha256~{digest}"


@pytest.mark.parametrize(("key", "readable"), [("k" * 186, True), ("k" * 187, False), ("é" * 93, True), ("é" * 94, False)])
def test_an_id_stays_readable_up_to_exactly_200_bytes(key: str, readable: bool) -> None:
    assert (object_workflow_id("photos", key) == f"object:photos:{key}") is readable


@pytest.mark.parametrize("other", ["reconcile:r", "housekeeping", "object", "object:r", "object::k", ""])
def test_ids_of_other_workflows_name_no_object(other: str) -> None:
    assert object_of_id(other) is None


def test_the_ids_of_the_other_workflows_are_fixed() -> None:
    assert (reconcile_id("r"), partition_id("repair", "r", 7), verify_id("r")) == ("reconcile:r", "reconcile:r:7", "verify:r")
    assert HOUSEKEEPING_ID == "housekeeping"


def test_copy_ids_are_16_hex_digits_of_the_given_randomness() -> None:
    assert new_copy_id(Random(1)) == new_copy_id(Random(1)) != new_copy_id(Random(2))
    assert len(new_copy_id(Random(1))) == 16
    assert int(new_copy_id(Random(1)), 16) >= 0
