"""GCS object resources to our values and back; names; errors by status and reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import (
    CredentialsRefused,
    KeyInvalid,
    KeyUnrepresentable,
    ObjectError,
    ObjectNotFound,
    ObjectTooLarge,
    PermissionRefused,
    PreconditionFailed,
    Refused,
    ServerFault,
    Throttled,
)
from replication.models import Attributes
from stores.gcs_errors import gcs_error
from stores.gcs_resources import check_name, object_path, same_attributes, to_attributes, to_info, to_patch, to_piece, to_resource

# As Google's documentation shows an object (numbers are strings), shortened.
RESOURCE: dict[str, Any] = {
    "name": "dir/ü",
    "bucket": "b",
    "generation": "1795233371785342",
    "metageneration": "3",
    "size": "5",
    "etag": "CL6xxx=",
    "crc32c": "mnG7TA==",
    "md5Hash": "XUFAKrxLKna5cZ2REBfFkg==",
    "timeCreated": "2026-11-21T03:56:11.785Z",
    "updated": "2026-11-22T03:56:11.785Z",
    "storageClass": "NEARLINE",
    "contentType": "text/plain",
    "metadata": {"Colour": "blau", "drayage-expires": "Wed, 21 Oct 2026 07:28:00 GMT"},
}


def test_a_resource_becomes_an_object_with_its_checksums() -> None:
    info = to_info(RESOURCE)
    assert (info.key, info.size_bytes, info.version.id, info.version.revision) == ("dir/ü", 5, "1795233371785342", "3")
    assert (info.checksums.crc32c, info.checksums.md5) == (0x9A71BB4C, "5d41402abc4b2a76b9719d911017c592")
    assert info.version.modified is not None
    assert info.version.modified.day == 21
    assert info.attributes.expires == "Wed, 21 Oct 2026 07:28:00 GMT"
    assert info.attributes.metadata == {"Colour": "blau"}


def test_a_composite_has_no_md5() -> None:
    assert to_info({name: value for name, value in RESOURCE.items() if name != "md5Hash"}).checksums.md5 is None


@pytest.mark.parametrize("broken", [{"generation": "x"}, {"generation": None}, {"size": "many"}, {"timeCreated": "soon"}])
def test_a_resource_that_cannot_be_read_is_a_fault_of_the_server(broken: dict[str, Any]) -> None:
    with pytest.raises(ServerFault):
        to_info(RESOURCE | broken)


def test_a_piece_without_a_checksum_is_not_composed() -> None:
    with pytest.raises(ServerFault):
        to_piece({name: value for name, value in RESOURCE.items() if name != "crc32c"})


TEXTS = st.text(max_size=20)
ATTRIBUTES = st.builds(
    Attributes,
    **dict.fromkeys(
        ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "expires", "storage_class"), TEXTS
    ),
    metadata=st.dictionaries(TEXTS.filter(lambda text: text != "drayage-expires"), TEXTS),
    tags=st.none(),
)


@given(ATTRIBUTES)
def test_attributes_survive_the_way_there_and_back(attributes: Attributes) -> None:
    assert to_attributes(json.loads(json.dumps(to_resource(attributes)))) == attributes


def merged(resource: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396, as the API's PATCH works."""
    result = dict(resource)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name) or {}, value) if isinstance(value, dict) else value
    return result


@given(ATTRIBUTES, ATTRIBUTES)
def test_a_patch_leaves_exactly_the_wanted_attributes(before: Attributes, wanted: Attributes) -> None:
    resource = to_resource(before)
    after = to_attributes(merged(resource, to_patch(wanted, resource.get("metadata", {}))))
    assert same_attributes(after, wanted)
    assert after.content_type == (wanted.content_type or before.content_type)


def test_what_differs_in_one_field_is_not_the_same() -> None:
    wanted = Attributes(content_type="a/b", metadata={"k": "v"})
    assert same_attributes(wanted, replace(wanted, content_type=""))
    others: tuple[dict[str, Any], ...] = ({"content_type": "c/d"}, {"cache_control": "x"}, {"metadata": {}}, {"expires": "soon"})
    for other in others:
        assert not same_attributes(replace(wanted, **other), wanted)


@pytest.mark.parametrize("key", ["a\nb", "a\rb", ".", "..", ".well-known/acme-challenge/x"])
def test_a_name_that_gcs_forbids_is_refused(key: str) -> None:
    with pytest.raises(KeyUnrepresentable):
        check_name(key)


@pytest.mark.parametrize("key", ["", "x" * 1025, "a\0b", "\ud800"])
def test_a_name_that_no_store_holds_is_invalid(key: str) -> None:
    with pytest.raises(KeyInvalid):
        check_name(key)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [("a//b", "a%2F%2Fb"), ("dir/", "dir%2F"), ("a+b", "a%2Bb"), ("a%2Fb", "a%252Fb"), ("../x", "..%2Fx"), ("é ", "%C3%A9%20"), ("~", "~")],
)
def test_every_reserved_byte_of_a_name_is_encoded(key: str, encoded: str) -> None:
    assert object_path("b", key) == f"/b/b/o/{encoded}"


def body(reason: str) -> bytes:
    return json.dumps({"error": {"code": 0, "message": "text", "errors": [{"reason": reason}]}}).encode()


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "invalid", Refused),
        (400, "userProjectMissing", PermissionRefused),
        (401, "authError", CredentialsRefused),
        (403, "forbidden", PermissionRefused),
        (403, "rateLimitExceeded", Throttled),
        (404, "notFound", ObjectNotFound),
        (412, "conditionNotMet", PreconditionFailed),
        (413, "uploadTooLarge", ObjectTooLarge),
        (429, "rateLimitExceeded", Throttled),
        (302, "", ServerFault),
        (500, "internalError", ServerFault),
        (503, "backendError", ServerFault),
    ],
)
def test_statuses_and_reasons_become_errors(status: int, reason: str, kind: type[ObjectError]) -> None:
    assert type(gcs_error(status, body(reason), {}, "get")) is kind


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {"errors": [3]}}', b'{"error": {"errors": 3}}', b"\xff"]
)
def test_an_error_without_the_apis_json_goes_by_its_status(text: bytes) -> None:
    assert type(gcs_error(403, text, {}, "get")) is PermissionRefused


def test_what_a_store_says_is_kept_as_text_even_where_it_is_none() -> None:
    text = b'{"error": {"errors": [{"reason": "a"}], "message": "no \\ud800 text"}}'
    assert str(gcs_error(403, text, {}, "get")) == "get: 403 a no ? text"


@pytest.mark.parametrize(("header", "seconds"), [({"Retry-After": "7"}, 7.0), ({"Retry-After": "soon"}, None), ({}, None)])
def test_retry_after_is_kept(header: dict[str, str], seconds: float | None) -> None:
    assert gcs_error(429, b"", header, "get").retry_after_s == seconds
