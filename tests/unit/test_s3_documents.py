"""What the S3 store reads out of documents and headers and writes into them, without a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from replication.errors import MetadataUnrepresentable, ServerFault
from replication.models import ABSENT, ANY, Attributes, Checksums, Condition, Part, Version
from stores.s3errors import unkept_key
from stores.s3headers import attribute_headers, checksums, condition_headers, object_info, source_headers
from stores.s3list import level_marker
from stores.s3wire import Address, framed_bytes, framed_length, trailer_headers
from stores.s3xml import ListingPage, complete_document, parse_error, parse_listing, parse_parts, parse_tags, parse_versioning

NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ENTRY = "<Contents><Key>{}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag><LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
MD5 = "0123456789abcdef0123456789abcdef"


def listing(inside: str) -> bytes:
    return f'<?xml version="1.0"?><ListBucketResult {NS}>{inside}</ListBucketResult>'.encode()


def head(**headers: str) -> CIMultiDict[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CIMultiDict({"Content-Length": "7", "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT", "ETag": f'"{MD5}"', **named})


# --- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["Fri, 02 Jan 2026 03:04:05 -0000", "Fri, 02 Jan 2026 03:04:05", "Fri Jan  2 03:04:05 2026"])
def test_a_head_without_a_zone_is_in_utc(told: str) -> None:
    assert object_info("k", head(Last_Modified=told)).version.modified == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("told", ["", "yesterday", "Fri, 02 Jan 9999999999 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:05 +999999999999"])
def test_a_head_with_a_time_that_is_none_is_a_fault(told: str) -> None:
    with pytest.raises(ServerFault):
        object_info("k", head(Last_Modified=told))


def test_a_listing_without_a_zone_is_in_utc() -> None:
    page = parse_listing(listing(ENTRY.replace("678Z", "678").format("k")))
    assert page.objects[0].version.modified == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


# --- documents ---------------------------------------------------------------------------------------------------------


def test_keys_are_decoded_only_where_the_answer_says_that_they_are_encoded() -> None:
    encoded = parse_listing(listing("<EncodingType>url</EncodingType>" + ENTRY.format("a+b%2Bc%0A")))
    assert [entry.key for entry in encoded.objects] == ["a b+c\n"]
    plain = parse_listing(listing(ENTRY.format("a+b%2Bc")))
    assert [entry.key for entry in plain.objects] == ["a+b%2Bc"]


@pytest.mark.parametrize(
    ("told", "truncated"),
    [
        ("<IsTruncated>true</IsTruncated>", True),
        ("<IsTruncated>True</IsTruncated>", True),
        ("<IsTruncated> true </IsTruncated>", True),
        ("<IsTruncated>1</IsTruncated>", True),
        ("<NextContinuationToken>t</NextContinuationToken>", True),
        ("<IsTruncated>false</IsTruncated>", False),
        ("<IsTruncated>false</IsTruncated><NextContinuationToken>t</NextContinuationToken>", False),
        ("", False),
    ],
)
def test_a_page_is_the_last_only_where_it_is_said(told: str, truncated: bool) -> None:
    assert parse_listing(listing(ENTRY.format("k") + told)).truncated == truncated


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>welcome</body></html>",
        b"not xml",
        b"<ListBucketResult>",
        listing("<Contents><Key>k</Key></Contents>"),
        listing(ENTRY.replace("<Size>1<", "<Size>-1<").format("k")),
        listing(ENTRY.replace("<Size>1<", f"<Size>{'9' * 5000}<").replace("><", "> <").format("k")),
        listing(ENTRY.format("k") + "<IsTruncated>yes</IsTruncated>"),
        listing(ENTRY.format("k") + "<IsTruncated></IsTruncated>"),
        listing(ENTRY.replace("2026-01-02T03", "soon").format("k")),
        listing("<EncodingType>url</EncodingType>" + ENTRY.format("%FF")),
        b'<!DOCTYPE d [<!ENTITY a "b">]><ListBucketResult><Name>&a;</Name></ListBucketResult>',
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><ListBucketResult/>',
        b"<ListBucketResult>" + b" " * (16 << 20) + b"</ListBucketResult>",
        b"<ListBucketResult>" + b"<a/>" * 500_000 + b"</ListBucketResult>",
    ],
    ids=[
        "empty",
        "html",
        "text",
        "cut",
        "entry",
        "size",
        "digits",
        "truth",
        "no truth",
        "time",
        "utf8",
        "entity",
        "external",
        "large",
        "tags",
    ],
)
def test_what_is_no_listing_is_a_fault_and_never_an_empty_listing(body: bytes) -> None:
    with pytest.raises(ServerFault):
        parse_listing(body)


VALUES = {"Key": ["a", "a/b c", "a+b%2F", "é", "a&amp;b", " ", "", "a\nb", "&#10;"], "Size": ["0", "7", "-1", "x", "", "0x1"],
          "ETag": ['"e"', "&quot;e&quot;", "&#34;e-2&#34;", "", "e&lt;", "e"], "LastModified": ["2026-01-02T03:04:05Z", "soon"],
          "StorageClass": ["STANDARD", "", "odd one"], "Owner": ["<ID>me</ID>", "me"], "ChecksumAlgorithm": ["CRC32C"]}  # fmt: skip
ENTRIES = st.lists(st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in VALUES.items()}), max_size=4)
USUAL = {"Key": "k", "Size": "1", "ETag": '"e"', "LastModified": "2026-01-02T03:04:05Z", "StorageClass": "STANDARD"}
BETWEEN = st.sampled_from(["", "", "", "\n", "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", "<!-- x -->", "<Contents/>"])


@given(entries=ENTRIES, usual=st.booleans(), between=BETWEEN, encoded=st.booleans(), cut=st.integers(0, 5))
def test_a_listing_read_quickly_is_what_the_strict_parser_reads(
    entries: list[dict[str, str]], usual: bool, between: str, encoded: bool, cut: int
) -> None:
    whole = [{**USUAL, **entry} if usual else entry for entry in entries]
    told = ["".join(f"<{name}>{text}</{name}>" for name, text in entry.items()) for entry in whole]
    body = listing("<EncodingType>url</EncodingType>" * encoded + between.join(f"<Contents>{entry}</Contents>" for entry in told))
    body = body[: len(body) - cut]

    assert read(body) == read(b"<!-- -->" + body.partition(b"?>")[2])


@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize("tag", ["<Contents>", "</Contents>", "<Key>", "</Size>"])
def test_no_entry_of_a_listing_is_lost_for_a_byte_that_flipped(tag: str, damaged: int) -> None:
    entries = [ENTRY.format(key) for key in "abc"]
    entries[damaged] = entries[damaged].replace(tag, tag.replace("e", "\x01"))
    with pytest.raises(ServerFault):
        parse_listing(listing("".join(entries)))


def read(body: bytes) -> ListingPage | str:
    try:
        return parse_listing(body)
    except ServerFault:
        return "fault"


def test_an_error_document_is_read_and_anything_else_is_none() -> None:
    assert parse_error(b" \n<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>m</Message></Error>")["Code"] == "SlowDown"
    assert parse_error(b"<html/>") == {}
    assert parse_error(b"") == {}


def test_parts_have_their_checksum_where_it_is_one_of_the_bytes() -> None:
    part = "<Part><PartNumber>{}</PartNumber><Size>5</Size><LastModified>2026-01-02T03:04:05Z</LastModified>{}</Part>"
    rows = part.format(1, "<ChecksumCRC32C>AAAAAQ==</ChecksumCRC32C>") + part.format(2, "")
    page = parse_parts(f"<ListPartsResult {NS}>{rows}<IsTruncated>false</IsTruncated></ListPartsResult>".encode())
    assert [part for _, part in page.parts] == [Part(1, 5, "", 1), Part(2, 5, "", None)]


def test_tags_and_versioning_are_read() -> None:
    tags = f"<Tagging {NS}><TagSet><Tag><Key>a b</Key><Value>1</Value></Tag><Tag><Key>c</Key><Value/></Tag></TagSet></Tagging>"
    assert parse_tags(tags.encode()) == {"a b": "1", "c": ""}
    assert parse_versioning(f"<VersioningConfiguration {NS}><Status>Enabled</Status></VersioningConfiguration>".encode())
    assert not parse_versioning(f"<VersioningConfiguration {NS}><Status>Suspended</Status></VersioningConfiguration>".encode())


def test_a_complete_names_its_parts_with_checksums_only_where_the_upload_has_them() -> None:
    parts = [Part(1, 5, "e1", 1), Part(2, 5, "e2", None)]
    assert complete_document(parts, checksums=True).count(b"<ChecksumCRC32C>AAAAAQ==</ChecksumCRC32C>") == 1
    assert b"Checksum" not in complete_document(parts, checksums=False)


# --- headers -----------------------------------------------------------------------------------------------------------


def test_attributes_become_headers() -> None:
    attributes = Attributes(content_type="a/b", storage_class="GLACIER_IR", metadata={"Color": "blue"}, tags={"a b": "1&2", "c": ""})
    assert attribute_headers(attributes) == {
        "content-type": "a/b",
        "x-amz-storage-class": "GLACIER_IR",
        "x-amz-meta-color": "blue",
        "x-amz-tagging": "a%20b=1%262&c=",
    }


@pytest.mark.parametrize(
    "attributes",
    [
        Attributes(content_type="a/b\r\nx-amz-acl: public-read"),
        Attributes(content_disposition="attachment; filename=é"),
        Attributes(cache_control=" no-store"),
        Attributes(metadata={"a": "1", "A": "2"}),
        Attributes(metadata={"a b": "1"}),
        Attributes(metadata={"é": "1"}),
        Attributes(metadata={"": "1"}),
    ],
)
def test_what_no_header_can_carry_is_refused(attributes: Attributes) -> None:
    with pytest.raises(MetadataUnrepresentable):
        attribute_headers(attributes)


@pytest.mark.parametrize("value", ["", "plain", "東京", "é", " blank", "blank ", "two\nlines", "=?utf-8?b?w6k=?=", "=?not words?="])
def test_metadata_comes_back_as_it_was_or_as_what_it_encodes(value: str) -> None:
    sent = attribute_headers(Attributes(metadata={"m": value}))["x-amz-meta-m"]
    assert sent.isascii()
    back = object_info("k", head(X_Amz_Meta_M=sent)).attributes.metadata["m"]
    assert back == ("é" if value.startswith("=?utf-8") else value)
    assert attribute_headers(Attributes(metadata={"m": back}))["x-amz-meta-m"] == sent


def test_metadata_that_aws_encoded_is_read() -> None:
    info = object_info("k", head(x_amz_meta_b="=?UTF-8?B?5p2x5Lqs?=", x_amz_meta_q="=?UTF-8?Q?caf=C3=A9?="))
    assert info.attributes.metadata == {"b": "東京", "q": "café"}


def test_withheld_metadata_is_refused_and_not_taken_for_none() -> None:
    with pytest.raises(MetadataUnrepresentable):
        object_info("k", head(x_amz_missing_meta="1"))


def test_framing_is_no_encoding_of_the_object() -> None:
    assert object_info("k", head(content_encoding="aws-chunked")).attributes.content_encoding == ""
    assert object_info("k", head(content_encoding="gzip,aws-chunked")).attributes.content_encoding == "gzip"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Checksums(md5=MD5)),
        ({"ETag": f'"{MD5}-2"'}, Checksums()),
        ({"x_amz_server_side_encryption": "AES256"}, Checksums(md5=MD5)),
        ({"x_amz_server_side_encryption": "aws:kms"}, Checksums()),
        ({"x_amz_server_side_encryption": "aws:kms:dsse"}, Checksums()),
        ({"x_amz_server_side_encryption_customer_algorithm": "AES256"}, Checksums()),
        ({"x_amz_checksum_crc32c": "AAAAAQ=="}, Checksums(crc32c=1, md5=MD5)),
        ({"x_amz_checksum_crc32c": "AAAAAQ==", "x_amz_checksum_type": "FULL_OBJECT"}, Checksums(crc32c=1, md5=MD5)),
        ({"x_amz_checksum_crc32c": "AAAAAQ==", "x_amz_checksum_type": "COMPOSITE"}, Checksums(md5=MD5)),
        ({"x_amz_checksum_crc32c": "AAAAAQ==-3"}, Checksums(md5=MD5)),
        ({"x_amz_checksum_crc64nvme": "AAAAAAAAAAE="}, Checksums(crc64nvme=1, md5=MD5)),
    ],
)
def test_only_checksums_of_the_whole_object_count(headers: dict[str, str], expected: Checksums) -> None:
    assert checksums(head(**headers)) == expected


@pytest.mark.parametrize(
    ("headers", "archived"),
    [
        ({}, False),
        ({"x_amz_storage_class": "STANDARD_IA"}, False),
        ({"x_amz_storage_class": "GLACIER_IR"}, False),
        ({"x_amz_storage_class": "GLACIER"}, True),
        ({"x_amz_storage_class": "DEEP_ARCHIVE", "x_amz_restore": 'ongoing-request="true"'}, True),
        (
            {"x_amz_storage_class": "GLACIER", "x_amz_restore": 'ongoing-request="false", expiry-date="Fri, 02 Jan 2027 00:00:00 GMT"'},
            False,
        ),
        ({"x_amz_storage_class": "INTELLIGENT_TIERING", "x_amz_archive_status": "ARCHIVE_ACCESS"}, True),
    ],
)
def test_an_object_is_archived_until_its_restore_is_done(headers: dict[str, str], archived: bool) -> None:
    assert object_info("k", head(**headers)).archived is archived


def test_the_null_version_identifies_nothing() -> None:
    assert object_info("k", head(x_amz_version_id="null")).version.id == ""
    assert object_info("k", head(x_amz_version_id="v1")).version.id == "v1"


def test_fences_and_pins() -> None:
    version = Version(1, "e", "v/1")
    assert condition_headers(ABSENT) == {"if-none-match": "*"}
    assert condition_headers(Condition.match(version)) == {"if-match": '"e"'}
    assert condition_headers(ANY) == {}
    assert source_headers("b", "a b/ü?", version) == {
        "x-amz-copy-source": "/b/a%20b/%C3%BC%3F?versionId=v%2F1",
        "x-amz-copy-source-if-match": '"e"',
    }


# --- addresses, framing, keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "region", "path_style", "bucket", "expected"),
    [
        (None, "eu-west-1", None, "photos", ("photos.s3.eu-west-1.amazonaws.com", "/a%2Bb/../c")),
        (None, "eu-west-1", None, "my.photos", ("s3.eu-west-1.amazonaws.com", "/my.photos/a%2Bb/../c")),
        (None, "eu-west-1", None, "p" * 64, ("s3.eu-west-1.amazonaws.com", f"/{'p' * 64}/a%2Bb/../c")),
        (None, "eu-west-1", None, "Old_Photos", ("s3.eu-west-1.amazonaws.com", "/Old_Photos/a%2Bb/../c")),
        (None, "eu-west-1", None, "else?", ("s3.eu-west-1.amazonaws.com", "/else%3F/a%2Bb/../c")),
        (None, "eu-west-1", True, "photos", ("s3.eu-west-1.amazonaws.com", "/photos/a%2Bb/../c")),
        (None, "cn-north-1", None, "photos", ("photos.s3.cn-north-1.amazonaws.com.cn", "/a%2Bb/../c")),
        ("http://127.0.0.1:8333/", "us-east-1", None, "photos", ("127.0.0.1:8333", "/photos/a%2Bb/../c")),
        ("https://Store.example:443", "us-east-1", None, "photos", ("store.example", "/photos/a%2Bb/../c")),
        ("https://store.example/s3/", "us-east-1", None, "photos", ("store.example", "/s3/photos/a%2Bb/../c")),
        ("https://store.example", "us-east-1", False, "photos", ("photos.store.example", "/a%2Bb/../c")),
        ("http://[::1]:80", "us-east-1", None, "photos", ("[::1]", "/photos/a%2Bb/../c")),
    ],
)
def test_where_a_key_is(endpoint: str | None, region: str, path_style: bool | None, bucket: str, expected: tuple[str, str]) -> None:
    assert Address.of(endpoint, region, path_style).locate(bucket, "a+b/../c") == expected


def test_a_framed_body_has_the_announced_length_and_the_trailer_last() -> None:
    body = framed_bytes(b"x" * 300, 1)
    assert body == b"12c\r\n" + b"x" * 300 + b"\r\n0\r\nx-amz-checksum-crc32c:AAAAAQ==\r\n\r\n"
    assert len(body) == framed_length(300)


def test_only_aws_is_told_of_the_framing() -> None:
    assert "content-encoding" not in trailer_headers({}, 1, announce=False)
    assert trailer_headers({}, 1, announce=True)["content-encoding"] == "aws-chunked"
    assert trailer_headers({"content-encoding": "gzip"}, 1, announce=True)["content-encoding"] == "aws-chunked,gzip"


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", ".", "a/../b", "./a", "a\\b", ".uploads/x", "a/b.versions/c"])
def test_keys_that_a_file_system_cannot_keep(key: str) -> None:
    assert unkept_key(key)


@pytest.mark.parametrize("key", ["a/b", "a..b", ".hidden/...", "a.versions", ".uploads", "uploads/x", "a b+c%2F"])
def test_keys_that_every_endpoint_keeps(key: str) -> None:
    assert not unkept_key(key)


@pytest.mark.parametrize(
    ("prefix", "start_after", "expected"),
    [
        ("", "", ("", "")),
        ("p/", "a", ("", "")),
        ("p/", "p/m/x", ("p/m", "p/m/")),
        ("p/", "p/m", ("p/m", "p/m/")),
        # "a/" is greater than "a-b" and smaller in the endpoint's order: starting there would miss it.
        ("p/", "p/a-b/c", ("", "")),
    ],
)
def test_a_level_starts_where_nothing_greater_is_missed(prefix: str, start_after: str, expected: tuple[str, str]) -> None:
    assert level_marker(prefix, start_after) == expected
