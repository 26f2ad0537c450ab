"""What a route takes, what it calls it at the destination, and what its digests depend on."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import RouteUnknown
from replication.routes import SKIP_REASONS, Route, SkipReason
from replication.settings import parse_settings

PINNED = ("86d78400ee5895de", "7a9aa0f0c928bb34", "016ff26c2d980816")
"""Ids of the two locations and the epoch of `a_route()`. Marks on replicas and plans in histories hold these:
a change here makes every existing mark and plan a stranger's."""
BLOB = f"blobs/{'a' * 64}.{'b' * 40}.{'c' * 32}"
STORES: dict[str, Any] = {
    "weed": {"type": "s3", "endpoint": "http://127.0.0.1:8333", "access_key_id": "env:KEY", "secret_access_key": "env:SECRET"},
    "fake": {"type": "gcs", "endpoint": "http://127.0.0.1:4443", "anonymous": True},
}


def a_route(*, source: str = "", destination: str = "", stores: dict[str, Any] = STORES, **policies: Any) -> Route:
    here, there = list(stores)
    route = {
        "name": "photos",
        "source": {"store": here, "bucket": "photos", "prefix": source},
        "destination": {"store": there, "bucket": "copy", "prefix": destination},
        **policies,
    }
    return parse_settings({"stores": stores, "routes": [route]}).route("photos")


@pytest.mark.parametrize(
    ("source", "destination", "key", "replica"),
    [
        ("", "mirror/", "a//b", "mirror/a//b"),
        ("in/", "", "in/a", "a"),
        ("in/", "out/", "in/in/a", "out/in/a"),
        ("in", "out", "inner/", "outner/"),
        ("", "", "../x", "../x"),
        ("p/", "q/", "p/", "q/"),
    ],
)
def test_the_replica_keeps_all_but_the_prefix(source: str, destination: str, key: str, replica: str) -> None:
    route = a_route(source=source, destination=destination)
    assert route.destination_key(key) == replica
    assert route.source_key(replica) == key


@given(st.text(max_size=50))
def test_a_key_comes_back_from_its_replica(rest: str) -> None:
    route = a_route(source="in/", destination="out/")
    assert route.source_key(route.destination_key("in/" + rest)) == "in/" + rest


def test_a_key_outside_the_prefix_has_no_replica() -> None:
    route = a_route(source="in/", destination="out/")
    with pytest.raises(ValueError, match="prefix"):
        route.destination_key("other/a")
    with pytest.raises(ValueError, match="prefix"):
        route.source_key("in/a")


@pytest.mark.parametrize(
    ("policies", "key", "reason"),
    [
        ({"source": "in/"}, "in", "outside-prefix"),
        ({"source": "in/"}, "in/a", None),
        ({}, ".drayage/parts/1", "reserved"),
        ({}, ".drayage", None),
        ({"source": "x"}, "x.drayage/a", "reserved"),
        ({"internal": ["tmp/"]}, "tmp/a", "internal"),
        ({"internal": ["tmp/"]}, "a/tmp/", None),
        ({"source": "in/", "internal": ["tmp/"]}, "in/tmp/a", "internal"),
        ({"exclude": ["*.tmp"]}, "a.tmp", "excluded"),
        ({"exclude": ["*.tmp"]}, "x/a.tmp", None),
        ({"source": "in/", "exclude": ["*.tmp"]}, "in/a.tmp", "excluded"),
        ({"include": ["*.jpg", "raw/**"]}, "a.jpg", None),
        ({"include": ["*.jpg", "raw/**"]}, "raw/x/y", None),
        ({"include": ["*.jpg", "raw/**"]}, "a.png", "not-included"),
        ({"include": ["*.jpg"], "exclude": ["a*"]}, "a.jpg", "excluded"),
    ],
)
def test_every_skipped_key_has_its_reason(policies: dict[str, Any], key: str, reason: str | None) -> None:
    assert a_route(**policies).skip_reason(key) == reason


@pytest.mark.parametrize(
    ("key", "internal"),
    [
        ("files/a.part1", True),
        ("files/a.part12345", True),
        ("files/a.parta", True),
        ("files/a.partZ", True),
        ("files/a.part", False),
        ("files/a.part1b", False),
        ("files/a.partab", False),
        ("files/a.parts", True),
        ("cache/x", True),
        ("cached", True),
        ("files/cache", False),
        (f"{BLOB}.{'d' * 8}", False),
        (f"{BLOB}-2.{'d' * 8}", False),
        (f"{BLOB}-10000.{'d' * 8}", False),
        (f"{BLOB}-1.{'d' * 8}", True),
        (f"{BLOB}-10001.{'d' * 8}", True),
        (f"{BLOB}.{'D' * 8}", True),
        (f"{BLOB}.{'d' * 8}\n", True),
        (f"{BLOB}.{'d' * 8}.part7", True),
        ("blobs/x", True),
        ("bundles/blobs/x", False),
    ],
)
def test_inner_objects_of_a_dss_bucket_never_replicate(key: str, internal: bool) -> None:
    assert a_route(dependencies="dss").skip_reason(key) == ("internal" if internal else None)
    assert a_route().skip_reason(key) is None


def test_the_internal_prefixes_of_dss_can_be_replaced() -> None:
    route = a_route(dependencies="dss", internal=["scratch"])
    assert route.skip_reason("cache/x") is None
    assert route.skip_reason("scratch/x") == "internal"


def test_every_skip_reason_is_explained() -> None:
    assert set(SKIP_REASONS) == set(get_args(SkipReason))


def test_an_unknown_route_is_refused_by_name() -> None:
    settings = parse_settings({"stores": STORES})
    with pytest.raises(RouteUnknown, match="no route 'photos'"):
        settings.route("photos")


@pytest.mark.parametrize(
    "change",
    [
        {"destination": "elsewhere/"},
        {"source": "in/"},
        {"overwrite": "never"},
        {"foreign": "keep"},
        {"dependencies": "dss"},
        {"include": ["a"]},
        {"exclude": ["a"]},
        {"internal": ["a"]},
        {"storage_class": "NEARLINE"},
        {"storage_class_map": {"STANDARD_IA": "NEARLINE"}},
        {"tags": "drop"},
        {"tag_metadata_prefix": "tag-"},
        {"parts": {"part_size": "8MiB"}},
        {"parts": {"one_shot_max": "8MiB"}},
    ],
)
def test_the_epoch_changes_with_whatever_changes_a_copy(change: dict[str, Any]) -> None:
    assert a_route(**change).epoch != a_route().epoch


@pytest.mark.parametrize(
    "change",
    [
        {"parts": {"concurrency": 2}},
        {"deletes": "mirror"},
        {"overwrite": "latest"},
        {"parts": {"one_shot_max": None}},
        {"include": None},
    ],
)
def test_the_epoch_stays_when_a_copy_would_be_the_same(change: dict[str, Any]) -> None:
    assert a_route(**change).epoch == a_route().epoch


def test_location_ids_tell_places_and_not_names_or_credentials() -> None:
    renamed = {"other": {**STORES["weed"], "access_key_id": "env:OTHER", "endpoint": "http://localhost:8333/"}, "fake": STORES["fake"]}
    route = a_route()
    assert a_route(stores=renamed).source_id == route.source_id
    assert route.source_id != route.destination_id
    assert a_route(source="in/").source_id != route.source_id
    moved = {"weed": {**STORES["weed"], "endpoint": "http://127.0.0.1:8334"}, "fake": STORES["fake"]}
    assert a_route(stores=moved).source_id != route.source_id


def test_digests_are_short_and_stay_the_same_between_releases() -> None:
    route = a_route()
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in (route.source_id, route.destination_id, route.epoch))
    assert (route.source_id, route.destination_id, route.epoch) == PINNED
