"""Table formats: Iceberg metadata, Delta logs and markers, as their specifications show them."""

from __future__ import annotations

import gzip
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import InvalidManifest
from replication.manifests.references import Reference
from replication.manifests.rules import Rule, Rules, build_rules
from replication.route_settings import DependencyRule

LOG = "wh/t/_delta_log/"


def rules(word: str, prefix: str = "") -> Rules:
    built = build_rules(word, "bucket", prefix)
    assert built is not None
    return built


def rule(word: str, key: str, prefix: str = "") -> Rule:
    found = rules(word, prefix).rule_of(prefix + key)
    assert found is not None
    return found


def dumped(*lines: Any) -> bytes:
    return b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


# --- markers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "key", "siblings"),
    [
        ("", "_SUCCESS", ""),
        ("", "a/b/_SUCCESS", "a/b/"),
        ("p/", "_SUCCESS", "p/"),
        ("p/", "a/_SUCCESS", "p/a/"),
        ("p/run-", "_SUCCESS", "p/run-"),
    ],
)
def test_a_marker_waits_for_its_directory_within_the_route(prefix: str, key: str, siblings: str) -> None:
    marker = rule("success", key, prefix)
    assert marker.reads == "siblings"
    assert marker.siblings(prefix + key) == siblings


def test_only_markers_are_markers() -> None:
    for key in ("a/_SUCCESS.crc", "a/x_SUCCESS", "a/_success", "a/_SUCCESS/x"):
        assert rules("success").rule_of(key) is None
    custom = build_rules((DependencyRule(match="**/_DONE", kind="success"),), "b", "")
    assert custom is not None
    assert custom.rule_of("a/_DONE") is not None
    assert custom.rule_of("a/_SUCCESS") is None


# --- Iceberg ---------------------------------------------------------------------------------------------------------

METADATA = "wh/t/metadata/00002-9c12d441.metadata.json"


def iceberg(document: Any, key: str = METADATA, encoding: str = "", prefix: str = "") -> list[str]:
    content = document if isinstance(document, bytes) else json.dumps({"format-version": 2, **document}).encode()
    references = rule("iceberg", key, prefix).references(prefix + key, content, encoding)
    assert {reference.exists for reference in references} <= {"object"}
    return [reference.key for reference in references]


def test_metadata_names_what_stands_in_its_json() -> None:
    base = "s3://bucket/wh/t/metadata/"
    document = {
        "location": "s3://bucket/wh/t",
        "current-snapshot-id": 2,
        "snapshots": [
            {"snapshot-id": 1, "manifest-list": base + "snap-1.avro", "manifests": ["ignored: not both"]},
            {"snapshot-id": 2, "manifest-list": "s3a://bucket/wh/t/metadata/snap-2.avro", "schema-id": 0},
            {"snapshot-id": 3, "manifests": [base + "m0.avro", base + "m1.avro"]},
            {"snapshot-id": 4, "manifest-list": base + "snap-1.avro"},
        ],
        "metadata-log": [{"timestamp-ms": 1, "metadata-file": base + "00001-a.metadata.json"}],
        "statistics": [{"snapshot-id": 1, "statistics-path": base + "a.stats"}],
        "partition-statistics": [{"snapshot-id": 1, "statistics-path": base + "b.stats"}],
        "schemas": [{"fields": [{"type": {"type": "struct", "fields": []}}]}],
    }
    names = ["snap-1.avro", "snap-2.avro", "m0.avro", "m1.avro", "00001-a.metadata.json", "a.stats", "b.stats"]
    assert iceberg(document) == ["wh/t/metadata/" + name for name in names]


@pytest.mark.parametrize(
    ("location", "path", "key"),
    [
        ("s3://bucket/wh/t", "s3://bucket/elsewhere/m.avro", "elsewhere/m.avro"),
        ("s3://bucket/wh/t", "s3://bucket/wh/t/a%20b", "wh/t/a%20b"),
        ("s3://bucket/wh/t", "metadata/m.avro", "wh/t/metadata/m.avro"),
        ("s3://bucket/wh/t/", "metadata/m.avro", "wh/t//metadata/m.avro"),
        (None, "metadata/m.avro", "p/wh/t/metadata/m.avro"),
        ("/srv/wh/t", "/srv/wh/t/metadata/m.avro", "p/wh/t/metadata/m.avro"),
        ("file:/srv/wh/t", "file:/srv/wh/t/metadata/m.avro", "p/wh/t/metadata/m.avro"),
        ("file:///srv/wh/t/", "file:///srv/wh/t/metadata/m.avro", "p/wh/t/metadata/m.avro"),
    ],
)
def test_paths_are_uris_or_stand_at_the_tables_location(location: str | None, path: str, key: str) -> None:
    assert iceberg({"location": location, "snapshots": [{"manifest-list": path}]}, prefix="p/") == [key]


def test_a_table_without_snapshots_names_nothing() -> None:
    assert iceberg({}) == []
    assert iceberg({"snapshots": None, "statistics": []}) == []


def test_metadata_may_be_packed_with_or_without_saying_so() -> None:
    packed = gzip.compress(json.dumps({"format-version": 1, "snapshots": [{"manifest-list": "s3://bucket/m"}]}).encode())
    for key in (METADATA, "wh/t/metadata/v1.gz.metadata.json", "wh/t/metadata/v1.metadata.json.gz"):
        assert iceberg(packed, key) == iceberg(packed, key, "gzip") == ["m"]


@pytest.mark.parametrize(
    "key", ["wh/t/metadata/snap-1.avro", "wh/t/metadata/version-hint.text", "wh/t/x.metadata.json", "wh/t/metadata/x/y.metadata.json"]
)
def test_other_objects_of_a_table_wait_for_nothing(key: str) -> None:
    assert rules("iceberg").rule_of(key) is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"[]", "the metadata is an array"),
        (b"{}", "has no format-version"),
        ({"snapshots": {}}, "snapshots is an object, and must be an array"),
        ({"snapshots": ["x"]}, "snapshots[0] is text"),
        ({"snapshots": [{"manifest-list": 5}]}, "snapshots[0].manifest-list is a number"),
        ({"snapshots": [{"manifest-list": ""}]}, "snapshots[0].manifest-list is empty"),
        ({"snapshots": [{"manifests": [None]}]}, "snapshots[0].manifests[0] is null"),
        ({"snapshots": [{"manifest-list": "s3://other/m"}]}, "snapshots[0].manifest-list: 's3://other/m' is in another bucket"),
        ({"snapshots": [{"manifest-list": "hdfs://nn/m"}]}, "is neither s3"),
        ({"snapshots": [{"manifest-list": "/srv/m"}]}, "is not below the table's location"),
        ({"snapshots": [{"manifest-list": "file:/srv/m"}]}, "is not below the table's location"),
        ({"location": "/srv/t", "snapshots": [{"manifest-list": "/srv/t/../m"}]}, "segment"),
        ({"location": "s3://other/t", "snapshots": [{"manifest-list": "m"}]}, "another bucket"),
        ({"location": 5}, "location is a number"),
        ({"metadata-log": [{}]}, "metadata-log[0].metadata-file is null"),
        ({"statistics": [{"statistics-path": "../x"}]}, "statistics[0].statistics-path"),
    ],
)
def test_metadata_that_cannot_be_followed_is_refused(document: Any, message: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        iceberg(document)
    assert message in str(caught.value)


# --- Delta Lake ------------------------------------------------------------------------------------------------------


def delta(*lines: Any, name: str = f"{0:020d}.json", log: str = LOG, prefix: str = "") -> list[str]:
    key = log + name
    return [reference.key for reference in rule("delta", key, prefix).references(prefix + key, dumped(*lines), "")]


def test_a_commit_names_its_files_and_the_commit_before() -> None:
    key = f"{LOG}{42:020d}.json"
    content = dumped(
        {"commitInfo": {"operation": "MERGE"}},
        {"protocol": {"minReaderVersion": 3}},
        {"add": {"path": "date=2024-01-01/part-0.parquet", "size": 1, "deletionVector": None}},
        {"add": None, "remove": {"path": "gone.parquet"}},
        b"\n",
        {"cdc": {"path": "_change_data/cdc-0.parquet"}},
        {"add": {"path": "part-1.parquet"}},
    )
    assert rule("delta", key).references(key, content, "") == (
        Reference(f"{LOG}{41:020d}.json", "manifest"),
        Reference("wh/t/date=2024-01-01/part-0.parquet"),
        Reference("wh/t/_change_data/cdc-0.parquet"),
        Reference("wh/t/part-1.parquet"),
    )


def test_the_first_commit_of_a_table_at_the_top_has_nothing_before_it() -> None:
    assert delta({"add": {"path": "x"}}, log="_delta_log/", prefix="p/") == ["p/x"]
    assert delta() == []


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%20b%2Fc/%C3%A9", "wh/t/a b/c/é"),
        ("a%253A", "wh/t/a%3A"),
        ("d=2020-01-01 00%3A00%3A00/x", "wh/t/d=2020-01-01 00:00:00/x"),
        ("a+b", "wh/t/a+b"),
        ("s3://bucket/other/a%20b", "other/a b"),
        ("gs://bucket/x", "x"),
    ],
)
def test_paths_are_percent_encoded(path: str, key: str) -> None:
    assert delta({"add": {"path": path}}) == [key]


@pytest.mark.parametrize(
    ("vector", "keys"),
    [
        (
            {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^"},
            ["wh/t/ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"],
        ),
        ({"storageType": "u", "pathOrInlineDv": "^-aqEH.-t@S}K{vb[*k^"}, ["wh/t/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"]),
        ({"storageType": "p", "pathOrInlineDv": "s3://bucket/t/deletion%20vector.bin"}, ["t/deletion vector.bin"]),
        ({"storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"}, []),
    ],
)
def test_deletion_vectors_are_those_of_the_protocols_examples(vector: dict[str, Any], keys: list[str]) -> None:
    assert delta({"add": {"path": "x", "deletionVector": vector}}) == ["wh/t/x", *keys]


def test_a_pointer_to_a_checkpoint_names_its_files() -> None:
    def files(**more: Any) -> list[str]:
        return [key.removeprefix(LOG) for key in delta({"version": 10, "size": 5, **more}, name="_last_checkpoint")]

    number = f"{10:020d}"
    assert files() == [f"{number}.checkpoint.parquet"]
    assert files(parts=None) == files()
    assert files(parts=2) == [f"{number}.checkpoint.0000000001.0000000002.parquet", f"{number}.checkpoint.0000000002.0000000002.parquet"]
    v2 = {"path": f"{number}.checkpoint.80a083e8.json", "sidecarFiles": [{"path": "a.parquet"}]}
    assert files(v2Checkpoint=v2) == [v2["path"], "_sidecars/a.parquet"]


def test_json_checkpoints_and_compacted_logs_name_what_they_add() -> None:
    lines = [
        {"checkpointMetadata": {"version": 10}},
        {"sidecar": {"path": "3a0d65cd.parquet"}},
        {"sidecar": {"path": "s3://bucket/wh/t/_delta_log/_sidecars/b.parquet"}},
    ]
    names = [f"{LOG}_sidecars/3a0d65cd.parquet", f"{LOG}_sidecars/b.parquet"]
    assert delta(*lines, name=f"{10:020d}.checkpoint.80a083e8-7026.json") == names
    assert delta({"add": {"path": "f2"}}, {"remove": {"path": "f1"}}, name=f"{4:020d}.{6:020d}.compacted.json") == ["wh/t/f2"]


@pytest.mark.parametrize(
    "name",
    [
        f"{1:020d}.checkpoint.parquet",
        f"{1:020d}.crc",
        f"{1:019d}.json",
        "x.json",
        f"_staged_commits/{1:020d}.{uuid.UUID(int=1)}.json",
        "_sidecars/a.parquet",
        f"{1:020d}.json.tmp",
    ],
)
def test_other_objects_of_a_log_wait_for_nothing(name: str) -> None:
    assert rules("delta").rule_of(LOG + name) is None
    assert rules("delta").rule_of(f"wh/t/{1:020d}.json") is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[]\n", "line 1 is an array"),
        (b'{"add"\n', "line 1: is not JSON"),
        ({"add": 5}, "add is a number"),
        ({"add": {}}, "line 1: add.path is null"),
        ({"add": {"path": ""}}, "line 1: add.path is empty"),
        ({"add": {"path": "a%2"}}, "not percent-encoded"),
        ({"add": {"path": "a%FF"}}, "not percent-encoded"),
        ({"add": {"path": "%2e%2E/x"}}, "segment"),
        ({"add": {"path": "/abs/x"}}, "neither relative to the table"),
        ({"add": {"path": "file:/abs/x"}}, "neither relative to the table"),
        ({"add": {"path": "s3://other/x"}}, "another bucket"),
        ({"cdc": {"path": "abfss://c@a/x"}}, "is neither s3"),
        ({"add": {"path": "x", "deletionVector": {"storageType": "z", "pathOrInlineDv": "x"}}}, "storageType 'z'"),
        ({"add": {"path": "x", "deletionVector": {"storageType": [], "pathOrInlineDv": "x"}}}, "storageType"),
        ({"add": {"path": "x", "deletionVector": {"storageType": "u", "pathOrInlineDv": "short"}}}, "20 characters"),
        ({"add": {"path": "x", "deletionVector": {"storageType": "u", "pathOrInlineDv": "#" * 20}}}, "pathOrInlineDv"),
        ({"add": {"path": "x", "deletionVector": {"storageType": "u", "pathOrInlineDv": "~" * 20}}}, "20 characters"),
        ({"add": {"path": "x", "deletionVector": {"storageType": "u", "pathOrInlineDv": "../^-aqEH.-t@S}K{vb[*k^"}}}, "segment"),
    ],
)
def test_a_commit_that_cannot_be_followed_is_refused(line: Any, message: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        delta(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": True},
        {"version": -1},
        {"version": 10**20},
        {"version": 1.0},
        {"version": 1, "parts": 10**9},
        {"version": 1, "parts": "2"},
        {"version": 1, "parts": 0},
    ],
)
def test_a_pointer_to_no_checkpoint_is_refused(document: Any) -> None:
    with pytest.raises(InvalidManifest):
        delta(document, name="_last_checkpoint")


PATHS: st.SearchStrategy[Any] = (
    st.sampled_from(["x", "", "../x", "a%20b", "%", "s3://bucket/x", "s3://o/x", "file:/x", "ab^-aqEH.-t@S}K{vb[*k^", 5, None, [], {}])
    | st.text()
)
ANY: st.SearchStrategy[Any] = st.recursive(
    PATHS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "storageType", "pathOrInlineDv", "manifest-list", "manifests"]), inner)
    ),
)
NAMES = ["add", "cdc", "sidecar", "snapshots", "metadata-log", "statistics", "location", "version", "parts", "v2Checkpoint"]


@given(
    st.sampled_from([("iceberg", METADATA), ("delta", f"{LOG}{7:020d}.json"), ("delta", LOG + "_last_checkpoint")]),
    st.binary() | st.dictionaries(st.sampled_from(NAMES), ANY).map(lambda d: json.dumps({"format-version": 2, **d}).encode()),
)
def test_no_bytes_do_anything_but_name_or_be_refused(place: tuple[str, str], content: bytes) -> None:
    word, key = place
    try:
        references = rule(word, key).references(key, content, "")
    except InvalidManifest as refused:
        str(refused).encode()
        return
    assert len(set(references)) == len(references)
    assert all(reference.key for reference in references)
