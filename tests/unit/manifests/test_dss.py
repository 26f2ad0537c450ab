"""The data store's manifests: which keys they are, what they name, and what is refused."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import InvalidManifest, UnknownKind
from replication.manifests.dss import blob_key_of, pointer_resolves
from replication.manifests.references import Reference
from replication.manifests.rules import Rule, Rules, build_rules

VERSION = "2019-05-16T211813.059476Z"
U1, U2, U3 = (str(uuid.UUID(int=n << 100 | 0xABC, version=4)) for n in (1, 2, 3))
SUMS = {"sha256": "ab" * 32, "sha1": "cd" * 20, "s3-etag": "ef" * 16 + "-12", "crc32c": "0a1b2c3d"}
BLOB = "blobs/" + ".".join(SUMS.values())


def rules(prefix: str = "") -> Rules:
    built = build_rules("dss", "bucket", prefix)
    assert built is not None
    return built


def rule(key: str, prefix: str = "") -> Rule:
    found = rules(prefix).rule_of(prefix + key)
    assert found is not None
    return found


def named(kind: str, document: Any, prefix: str = "") -> tuple[Reference, ...]:
    key = f"{kind}/{U1}.{VERSION}"
    return rule(key, prefix).references(prefix + key, json.dumps(document).encode(), "")


def refusal(kind: str, document: Any) -> str:
    with pytest.raises(InvalidManifest) as caught:
        named(kind, document)
    return str(caught.value)


# --- which keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "replica/", "x"])
def test_manifests_have_rules_and_blobs_and_tombstones_have_none(prefix: str) -> None:
    for kind in ("files", "bundles", "collections"):
        assert rule(f"{kind}/{U1}.{VERSION}", prefix).reads == "content"
    for key in (BLOB, f"bundles/{U1}.{VERSION}.dead", f"bundles/{U1}.dead", f"files/{U1}.{VERSION}.dead", f"collections/{U1}.dead"):
        assert rules(prefix).rule_of(prefix + key) is None


@pytest.mark.parametrize(
    "key",
    [
        "other/x",
        "x",
        "blobs",
        "file/" + U1,
        f"files/{U1}",
        f"files/{U1}.",
        f"files/{U1}.v/x",
        f"files/not-a-uuid.{VERSION}",
        f"Files/{U1}.v",
        "undead",
    ],
)
def test_a_key_of_no_known_kind_is_refused(key: str) -> None:
    with pytest.raises(UnknownKind):
        rules().rule_of(key)


def test_a_key_outside_the_prefix_is_nobodys() -> None:
    assert rules("replica/").rule_of("elsewhere/x") is None


# --- what they name --------------------------------------------------------------------------------------------------


def test_a_file_names_its_blob_in_lower_case() -> None:
    shouted = {name: value.upper() for name, value in SUMS.items()} | {"size": 7, "content-type": "text/plain"}
    assert named("files", shouted, "replica/") == (Reference("replica/" + BLOB, "object"),)
    assert blob_key_of(json.dumps(shouted).encode()) == BLOB


def test_a_bundle_names_its_files_each_once_in_order() -> None:
    files = [{"uuid": U2, "version": VERSION}, {"uuid": U1.upper(), "version": VERSION}, {"uuid": U2, "version": VERSION, "name": "again"}]
    assert named("bundles", {"files": files}, "p/") == (
        Reference(f"p/files/{U2}.{VERSION}", "manifest"),
        Reference(f"p/files/{U1}.{VERSION}", "manifest"),
    )
    assert named("bundles", {"files": []}) == ()


def test_a_collection_names_its_items_and_fragments() -> None:
    contents = [
        {"type": "file", "uuid": U1, "version": VERSION, "fragment": "/ignored"},
        {"type": "bundle", "uuid": U2, "version": VERSION},
        {"type": "collection", "uuid": U3, "version": VERSION},
        {"type": "sample", "uuid": U1, "version": VERSION, "fragment": "/a/0"},
        {"type": "sample", "uuid": U1, "version": VERSION, "fragment": "#/a%20b"},
        {"type": "whole", "uuid": U1, "version": VERSION, "fragment": ""},
        {"type": "sample", "uuid": U1, "version": VERSION, "fragment": "/a/0"},
    ]
    file = f"files/{U1}.{VERSION}"
    assert named("collections", {"contents": contents}) == (
        Reference(file, "manifest"),
        Reference(f"bundles/{U2}.{VERSION}", "manifest"),
        Reference(f"collections/{U3}.{VERSION}", "manifest"),
        Reference(file, "manifest", "/a/0"),
        Reference(file, "manifest", "#/a%20b"),
        Reference(file, "manifest", ""),
    )


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha1": None}, "sha1 is null"),
        ({"sha256": 5}, "sha256 is a number"),
        ({"crc32c": ""}, "crc32c is empty"),
        ({"crc32c": "0a1b2c3"}, "crc32c: '0a1b2c3' has not the form of one"),
        ({"sha256": "../" + "a" * 61}, "sha256"),
        ({"s3-etag": "ef" * 16 + "-"}, "s3-etag"),
        ({"sha1": "cd" * 20 + "\n"}, "sha1"),
    ],
)
def test_a_file_without_its_four_checksums_is_refused(change: dict[str, Any], message: str) -> None:
    assert message in refusal("files", SUMS | change)
    with pytest.raises(InvalidManifest):
        blob_key_of(json.dumps(SUMS | change).encode())


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        ("files", {}, "sha256 is missing"),
        ("files", [], "the manifest is an array, and must be an object"),
        ("bundles", {}, "files is missing, and must be an array"),
        ("bundles", {"files": {}}, "files is an object, and must be an array"),
        ("bundles", {"files": ["x"]}, "files[0] is text, and must be an object"),
        ("bundles", {"files": [{"uuid": U1, "version": VERSION}, {"uuid": U1}]}, "files[1]: version is missing"),
        ("bundles", {"files": [{"uuid": "../x", "version": VERSION}]}, "files[0]: 'files/../x"),
        ("bundles", {"files": [{"uuid": U1, "version": "../../x"}]}, "files[0]"),
        ("bundles", {"files": [{"uuid": U1, "version": "\ud800"}]}, "files[0]: 'files/"),
        ("bundles", {"files": [{"uuid": U1, "version": VERSION + ".dead"}]}, "is no key of a manifest"),
        ("collections", {"files": []}, "contents is missing"),
        ("collections", {"contents": [{"uuid": U1, "version": VERSION}]}, "contents[0]: type is missing"),
        ("collections", {"contents": [{"type": "x", "uuid": U1, "version": VERSION}]}, "contents[0]: fragment is missing"),
        (
            "collections",
            {"contents": [{"type": "x", "uuid": U1, "version": VERSION, "fragment": "a"}]},
            "contents[0].fragment is no JSON pointer",
        ),
        ("collections", {"contents": [{"type": "x", "uuid": U1, "version": VERSION, "fragment": "/~2"}]}, "contents[0].fragment"),
        ("collections", {"contents": [{"type": "x", "uuid": U1, "version": VERSION, "fragment": "#/%zz"}]}, "contents[0].fragment"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_place(kind: str, document: Any, message: str) -> None:
    told = refusal(kind, document)
    assert message in told
    told.encode()


# --- pointers: the examples of RFC 6901 --------------------------------------------------------------------------------

RFC6901 = json.dumps(
    {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8, "null": None}
).encode()


@pytest.mark.parametrize(
    "pointer",
    [
        "",
        "/foo",
        "/foo/0",
        "/",
        "/a~1b",
        "/c%d",
        "/e^f",
        "/g|h",
        "/i\\j",
        '/k"l',
        "/ ",
        "/m~0n",
        "/null",
        "#",
        "#/foo/1",
        "#/a~1b",
        "#/c%25d",
        "#/%20",
    ],
)
def test_a_pointer_that_leads_somewhere_resolves(pointer: str) -> None:
    assert pointer_resolves(RFC6901, pointer)


@pytest.mark.parametrize(
    "pointer",
    [
        "/bar",
        "/foo/2",
        "/foo/-",
        "/foo/01",
        "/foo/-1",
        "/foo/+1",
        "/foo/\u0661",
        "/foo/" + "9" * 5000,
        "/foo/0/0",
        "foo",
        "/m~n",
        "#/%zz",
        "#/%ff",
    ],
)
def test_a_pointer_that_leads_nowhere_does_not(pointer: str) -> None:
    assert not pointer_resolves(RFC6901, pointer)


@pytest.mark.parametrize("blob", [b"", b"\x00\xff", b"plain text", b'{"a": 1', "{}".encode("utf-16")])
def test_nothing_is_found_in_what_is_no_json(blob: bytes) -> None:
    assert not pointer_resolves(blob, "")
    assert not pointer_resolves(blob, "/a")


ITEM = st.dictionaries(
    st.sampled_from(["type", "uuid", "version", "fragment", "x"]), st.sampled_from([U1, VERSION, "file", "", "../x", 5, None])
)


@given(
    st.sampled_from(["files", "bundles", "collections"]),
    st.binary() | st.fixed_dictionaries({"files": st.lists(ITEM), "contents": st.lists(ITEM)}).map(lambda d: json.dumps(d).encode()),
)
def test_no_bytes_do_anything_but_name_or_be_refused(kind: str, content: bytes) -> None:
    key = f"{kind}/{U1}.{VERSION}"
    try:
        references = rule(key).references(key, content, "")
    except InvalidManifest:
        return
    assert len(set(references)) == len(references)
    assert all(reference.key.startswith(("files/", "bundles/", "collections/", "blobs/")) for reference in references)
