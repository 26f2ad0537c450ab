"""The URLs of `sync`: what each means, what each refusal says, and that a place written as a URL is read as itself."""

from __future__ import annotations

import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.sync_urls import Place, beside, check_pair, parse_place, short_url, url_of
from replication.errors import UsageError

LITERAL = "AKIAVERYSECRETVALUE"


def parse(text: str) -> Place:
    return parse_place("SOURCE", text, posixpath.abspath)


S3: dict[str, Any] = {"type": "s3"}
GCS: dict[str, Any] = {"type": "gcs"}

MEANINGS: dict[str, Place] = {
    "s3://photos": Place(S3, "photos", ""),
    "s3://photos/": Place(S3, "photos", ""),
    "s3://photos/2024": Place(S3, "photos", "2024"),
    "S3://photos/2024/": Place(S3, "photos", "2024/"),
    "s3://photos//a//b/": Place(S3, "photos", "/a//b/"),
    "s3://photos/a%20b%3Fc%23d/": Place(S3, "photos", "a b?c#d/"),
    "s3://photos/100%25/%2520/": Place(S3, "photos", "100%/%20/"),
    "s3://photos/a+b/": Place(S3, "photos", "a+b/"),
    "s3://photos/æ/%C3%A6/": Place(S3, "photos", "æ/æ/"),
    "s3://photos?region=eu-north-1": Place({**S3, "region": "eu-north-1"}, "photos", ""),
    "s3://photos/x/?endpoint=http://127.0.0.1:8333&path_style=true": Place(
        {**S3, "endpoint": "http://127.0.0.1:8333", "path_style": True}, "photos", "x/"
    ),
    "s3://photos?endpoint=http%3A%2F%2F127.0.0.1%3A8333&path_style=false": Place(
        {**S3, "endpoint": "http://127.0.0.1:8333", "path_style": False}, "photos", ""
    ),
    "s3://photos?access_key_id=env:KEY&secret_access_key=file:/run/secrets/key&session_token=env:TOKEN": Place(
        {**S3, "access_key_id": "env:KEY", "secret_access_key": "file:/run/secrets/key", "session_token": "env:TOKEN"}, "photos", ""
    ),
    "s3://photos?expected_bucket_owner=123456789012": Place({**S3, "expected_bucket_owner": "123456789012"}, "photos", ""),
    "gs://photos/a/": Place(GCS, "photos", "a/"),
    "gs://photos?endpoint=http://127.0.0.1:4443&anonymous=true&project=p": Place(
        {**GCS, "endpoint": "http://127.0.0.1:4443", "anonymous": True, "project": "p"}, "photos", ""
    ),
    "file:///srv/data/photos": Place({"type": "file", "root": "/srv/data"}, "photos", ""),
    "file:///srv/data/photos/": Place({"type": "file", "root": "/srv/data"}, "photos", ""),
    "file:///srv/100%2525": Place({"type": "file", "root": "/srv"}, "100%25", ""),
    "/srv/data/photos": Place({"type": "file", "root": "/srv/data"}, "photos", ""),
    "/srv/a%20b?c#d": Place({"type": "file", "root": "/srv"}, "a%20b?c#d", ""),
    "/photos": Place({"type": "file", "root": "/"}, "photos", ""),
    "/srv/data/../photos/.": Place({"type": "file", "root": "/srv"}, "photos", ""),
    "/srv/data/my photos": Place({"type": "file", "root": "/srv"}, "data", "my photos/"),
    "/srv/data/my photos/of 2024/": Place({"type": "file", "root": "/srv"}, "data", "my photos/of 2024/"),
    "file:///srv/my%20photos/2024": Place({"type": "file", "root": "/srv/my photos"}, "2024", ""),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_url_means(text: str) -> None:
    assert parse(text) == MEANINGS[text]


def test_a_relative_path_is_made_absolute_by_the_caller() -> None:
    assert parse_place("SOURCE", "photos", lambda path: f"/srv/{path}") == Place({"type": "file", "root": "/srv"}, "photos", "")


REFUSALS = {
    "": "is empty",
    "ftp://host/a": "scheme: 'ftp' is unknown",
    "http://host/a": "scheme: 'http' is unknown",
    "s3:/photos": "scheme: two slashes are missing",
    "gs:photos": "scheme: two slashes are missing",
    "s3://": "bucket: is missing",
    "s3:///a": "bucket: is missing",
    "s3://?region=x": "bucket: is missing",
    f"s3://key:{LITERAL}@photos/a": "bucket: must not hold a user or password",
    "s3://127.0.0.1:9000/photos": "bucket: must not hold a port: a server is a field, ?endpoint=",
    "s3://a%2Fb/": "bucket: must be a bucket's name",
    "s3://a%20b/": "bucket: must be a bucket's name",
    "s3://photos/%": "prefix: holds a '%' without two hexadecimal digits",
    "s3://photos/%2": "prefix: holds a '%' without two hexadecimal digits",
    "s3://photos/%zz": "prefix: holds a '%' without two hexadecimal digits",
    "s3://photos/%ff": "prefix: is not UTF-8",
    "s3://photos/\udcff": "prefix: is not UTF-8",
    "s3://photos/%00": "prefix: holds a NUL",
    f"s3://photos/{'k' * 1025}": "prefix: can start no key",
    "s3://photos/.drayage/x": "prefix: is reserved",
    "s3://photos/a#b": "holds a '#': write it as %23",
    "s3://photos?endpont=http://127.0.0.1:1": "endpont: unknown field (did you mean 'endpoint'?)",
    "s3://photos?project=p": "project: unknown field",
    "s3://photos?type=gcs": "type: unknown field",
    f"s3://photos?{LITERAL[:3]}\x1b[2J=1": "AKI\\x1b[2J: unknown field",
    "s3://photos?=x": "?: unknown field",
    "gs://photos?region=x": "region: unknown field",
    "s3://photos?region=a&region=b": "region: is given twice",
    "s3://photos?region=": "region: is empty",
    "s3://photos?region": "region: is empty",
    "s3://photos?endpoint=127.0.0.1:8333": "endpoint: must be an http:// or https:// URL",
    f"s3://photos?endpoint=http://u:{LITERAL}@127.0.0.1:8333": "endpoint: must not hold a user or password",
    "s3://photos?endpoint=http://169.254.169.254": "endpoint: must not be a link-local or metadata address",
    "s3://photos?endpoint=http://127.0.0.1:1/x": "endpoint: must not hold a path or query",
    "s3://photos?path_style=yes": "path_style: must be true or false",
    "gs://photos?anonymous=1": "anonymous: must be true or false",
    f"s3://photos?access_key_id={LITERAL}&secret_access_key=env:S": "access_key_id: must be a reference, env:NAME",
    f"s3://photos?access_key_id=env:K&secret_access_key={LITERAL}": "secret_access_key: must be a reference, env:NAME",
    "s3://photos?access_key_id=env:K": "access_key_id and secret_access_key belong together",
    "s3://photos?session_token=env:T": "session_token needs access_key_id",
    "s3://photos?expected_bucket_owner=12": "expected_bucket_owner: must be an AWS account id",
    "file://host/srv": "host: a file URL has none",
    "file://localhost/srv": "host: a file URL has none",
    "file://srv": "host: a file URL has none",
    "file:///srv?region=x": "region: unknown field",
    "file:///srv/a?": "?: unknown field",
    "file:///srv/%": "path: holds a '%'",
    "file:///": "path: is no folder below the root",
    "/": "path: is no folder below the root",
    "/ / ": "path: is no folder below the root",
    "/srv/a\0b": "path: holds a NUL",
    "/srv/\udcff": "prefix: can start no key",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one_line_that_names_argument_and_field_and_repeats_no_secret(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_place("DESTINATION", text, posixpath.abspath)

    line = str(refused.value)
    assert line.startswith(f"argument DESTINATION: {REFUSALS[text]}")
    assert LITERAL not in line
    assert "\n" not in line
    assert line.isprintable()


PAIRS = {
    ("s3://a/x/", "s3://a/x/"): "overlaps SOURCE",
    ("s3://a/", "s3://a/x/"): "overlaps SOURCE",
    ("s3://a/x/y/", "s3://a/x/"): "overlaps SOURCE",
    ("s3://a/?region=us-east-1", "s3://a/?region=eu-north-1"): "overlaps SOURCE",
    ("s3://a?endpoint=http://localhost:80", "s3://a?endpoint=http://127.0.0.1"): "overlaps SOURCE",
    ("/srv/a", "file:///srv/a"): "overlaps SOURCE",
    ("/srv/a", "/srv/a/b"): "overlaps SOURCE",
    ("/srv/a b/c", "/srv/a b"): "overlaps SOURCE",
    ("s3://a", "s3://b/x"): "prefix: does not end in '/'",
    ("s3://a/x/", "gs://b/x"): "prefix: does not end in '/'",
}


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_a_pair_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=f"^argument DESTINATION: {PAIRS[pair]}"):
        check_pair(parse(pair[0]), parse(pair[1]))


def test_a_source_that_is_no_folder_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match=r"^argument SOURCE: prefix: does not end in '/'"):
        check_pair(parse("s3://a/x"), parse("s3://b"))


def test_a_prefix_beside_files_is_a_folder_with_or_without_its_slash() -> None:
    files, bucket = parse("/srv/a"), parse("s3://b/x")
    assert beside(files, bucket) == parse("s3://b/x/")
    assert beside(files, parse("s3://b/x/")) == parse("s3://b/x/")
    assert beside(files, parse("s3://b")) == parse("s3://b")
    assert beside(parse("gs://c/y/"), bucket) == bucket, "a prefix may be the beginning of a name there"
    assert beside(bucket, files) == files


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("s3://a", "s3://b"),
        ("s3://a/x", "s3://a/y"),
        ("s3://a/x/", "s3://a/xy/"),
        ("s3://a?endpoint=http://127.0.0.1:1", "s3://a?endpoint=http://127.0.0.1:2"),
        ("s3://a", "gs://a"),
        ("/srv/a", "/srv/ab"),
        ("/srv/a b/x", "/srv/a c"),
    ],
)
def test_a_pair_is_accepted(source: str, destination: str) -> None:
    check_pair(parse(source), parse(destination))


def test_what_a_person_reads_of_a_url_is_without_the_store() -> None:
    assert short_url(parse("s3://photos/a%3Fb/?access_key_id=env:K&secret_access_key=env:S")) == "s3://photos/a%3Fb/"


NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True)
PREFIXES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)
REFERENCES = st.from_regex(r"env:[A-Z_]{1,10}", fullmatch=True) | st.from_regex(r"file:/[a-z %&=?#+/]{1,20}", fullmatch=True)
ENDPOINTS = st.from_regex(r"https?://[a-z]{1,10}\.example(:[1-9][0-9]{1,3})?", fullmatch=True)
S3_STORES = st.fixed_dictionaries(
    {"type": st.just("s3")},
    optional={
        "region": st.from_regex(r"[A-Za-z0-9_-]{1,30}(\.[A-Za-z0-9_-]{1,30})?", fullmatch=True),
        "endpoint": ENDPOINTS,
        "path_style": st.booleans(),
    },
)
SIGNED = st.builds(
    lambda store, key, secret: {**store, "access_key_id": key, "secret_access_key": secret}, S3_STORES, REFERENCES, REFERENCES
)
GCS_STORES = st.fixed_dictionaries({"type": st.just("gcs")}, optional={"project": NAMES, "endpoint": ENDPOINTS, "anonymous": st.booleans()})


@given(st.builds(Place, S3_STORES | SIGNED | GCS_STORES, NAMES, PREFIXES))
def test_a_place_written_as_a_url_is_read_as_itself(place: Place) -> None:
    if not place.prefix.startswith(".drayage/"):
        assert parse(url_of(place)) == place


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20), min_size=1, max_size=5))
def test_a_folder_is_the_same_as_a_path_and_as_a_url(names: list[str]) -> None:
    path = posixpath.normpath("/" + "/".join(names))
    try:
        place = parse(path)
    except UsageError:
        return
    assert place.folder == path
    assert parse(url_of(place)) == place
