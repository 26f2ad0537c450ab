"""Rules of the configuration: paths, pointers and templates, on manifests of every shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from replication.errors import InvalidManifest
from replication.manifests.documents import MAX_DEPTH
from replication.manifests.paths import check_path
from replication.manifests.references import Reference
from replication.manifests.rules import Rules, build_rules
from replication.manifests.templates import check_template
from replication.route_settings import DependencyRule

PREFIX = "data/"


def rules(*settings: dict[str, Any]) -> Rules:
    built = build_rules(tuple(DependencyRule.model_validate({"match": "**/*.json", **one}) for one in settings), "bucket", PREFIX)
    assert built is not None
    return built


def named(document: Any, *, at: str = "sets/m.json", **settings: Any) -> list[str]:
    rule = rules({"references": "$.parts[*]", **settings}).rule_of(PREFIX + at)
    assert rule is not None
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [reference.key for reference in rule.references(PREFIX + at, content, "")]


def refusal(document: Any, **settings: Any) -> str:
    with pytest.raises(InvalidManifest) as caught:
        named(document, **settings)
    str(caught.value).encode()
    return str(caught.value)


# --- which keys ------------------------------------------------------------------------------------------------------


def test_globs_match_below_the_prefix_and_the_first_rule_counts() -> None:
    built = rules({"match": "a/*.json", "references": "$.a", "exists": "manifest"}, {"references": "$.b"})
    content = b'{"a": "from-a", "b": "from-b"}'
    found = {}
    for key in ("data/a/m.json", "data/b/m.json"):
        rule = built.rule_of(key)
        assert rule is not None
        found[key] = rule.references(key, content, "")
    assert found == {"data/a/m.json": (Reference("data/from-a", "manifest"),), "data/b/m.json": (Reference("data/from-b", "object"),)}
    for key in ("a/m.json", "data/a/m.txt", "other/a/m.json"):
        assert built.rule_of(key) is None


def test_without_rules_no_order_matters() -> None:
    assert build_rules("none", "b", "") is None
    assert build_rules((), "b", "") is None


# --- what is named ---------------------------------------------------------------------------------------------------

OBJECTS = {"parts": [{"sha256": "a", "s3-etag": "b-2", "n": 7}, {"sha256": "c", "s3-etag": "d", "n": 8}]}


@pytest.mark.parametrize(
    ("document", "settings", "keys"),
    [
        ({"parts": ["p", "q/r", "p"]}, {}, ["p", "q/r"]),
        ({"parts": ["p", 12, 1.5]}, {"key": "n-{value}"}, ["n-p", "n-12", "n-1.5"]),
        ({"parts": ["p"]}, {"key": "{dir}{value}"}, ["sets/p"]),
        ({"parts": ["p"]}, {"key": "{dir}{value}", "at": "m.json"}, ["p"]),
        ({"parts": ["p"]}, {"key": "{{{value}}}"}, ["{p}"]),
        (OBJECTS, {"key": "blobs/{sha256}.{s3-etag}"}, ["blobs/a.b-2", "blobs/c.d"]),
        (OBJECTS, {"key": "{n}"}, ["7", "8"]),
        (OBJECTS, {"references": "$.parts[*].sha256"}, ["a", "c"]),
        (OBJECTS, {"references": "/parts/1/sha256"}, ["c"]),
        (OBJECTS, {"references": "/parts", "key": "{sha256}"}, ["a", "c"]),
        (OBJECTS, {"references": "$.parts[?@.n > 7].sha256"}, ["c"]),
        (OBJECTS, {"references": "$.parts[?match(@.sha256, '[ab]')].sha256"}, ["a"]),
        (OBJECTS, {"references": "$..sha256"}, ["a", "c"]),
        (OBJECTS, {"references": ["$.parts[1].sha256", "/parts/0/sha256", "$.parts[*].sha256"]}, ["c", "a"]),
        ({"sha256": "x"}, {"references": "$", "key": "{sha256}"}, ["x"]),
        (["p", "q"], {"references": "$[*]"}, ["p", "q"]),
        ({"a": {"parts": ["p"]}, "version": 1, "b": {"parts": ["q"]}}, {"references": "$.*.parts[*]"}, ["p", "q"]),
        ({"a/b": {"~": "p"}}, {"references": "/a~1b/~0"}, ["p"]),
        ({"parts": ["a//b", " ", "é\n", "..a", "a..", "%2e%2e/x", "/abs"]}, {}, ["a//b", " ", "é\n", "..a", "a..", "%2e%2e/x", "/abs"]),
    ],
)
def test_values_become_keys(document: Any, settings: dict[str, Any], keys: list[str]) -> None:
    assert named(document, **settings) == [PREFIX + name for name in keys]


@pytest.mark.parametrize("scheme", ["s3", "s3a", "gs", "S3"])
@pytest.mark.parametrize("template", ["{value}", "{dir}{value}"])
def test_a_uri_of_the_sources_bucket_is_a_full_key(scheme: str, template: str) -> None:
    assert named({"parts": [f"{scheme}://bucket/data/p", f"{scheme}://bucket/elsewhere//p"]}, key=template) == ["data/p", "elsewhere//p"]


def test_a_template_may_make_a_uri() -> None:
    parts = [{"bucket": "bucket", "path": "data/p"}]
    assert named({"parts": parts}, key="s3://{bucket}/{path}") == ["data/p"]
    assert "another bucket" in refusal({"parts": [{"bucket": "other", "path": "p"}]}, key="s3://{bucket}/{path}")


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "$.parts[*]"),
        ({"parts": None}, "$.parts[*]"),
        ({"parts": []}, "$.parts[*]"),
        ({}, "/parts"),
        ({"p": None}, "$.p"),
        ({"p": None}, "/p"),
        ({}, "$..p"),
    ],
)
def test_what_a_manifest_leaves_out_names_nothing(document: Any, path: str) -> None:
    assert named(document, references=path) == []


def test_paths_go_as_deep_as_documents_may() -> None:
    document: Any = "p"
    for _ in range(MAX_DEPTH):
        document = {"in": document}
    assert named(document, references="$" + ".in" * MAX_DEPTH) == ["data/p"]
    assert named(document, references="$..[?@ == 'p']") == ["data/p"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "settings", "message"),
    [
        (b'{"parts": ["p"', {}, "is not JSON"),
        ({"parts": [["nested"]]}, {}, "$.parts[0]: is an array, and must be text or a number"),
        ({"parts": ["p", True]}, {}, "$.parts[1]: is true or false"),
        ({"parts": [None]}, {}, "$.parts[0]: is null"),
        ({"parts": [{}]}, {}, "$.parts[0]: is an object, and must be text or a number"),
        ({"parts": ["p"]}, {"key": "{a}"}, "$.parts[0]: is text, and must be an object"),
        ({"parts": [{"a": "x"}]}, {"key": "{a}.{s3-etag}"}, "$.parts[0]: has no member 's3-etag'"),
        ({"parts": [{"a": [1]}]}, {"key": "{a}"}, "$.parts[0]: its member 'a' is an array"),
        ({"parts": [{"a": ""}]}, {"key": "x/{a}"}, "$.parts[0]: its member 'a' is empty"),
        ({"parts": "p"}, {}, "$.parts is text, and $"),
        ({"parts": 5}, {}, "$.parts is a number"),
        ({"parts": {"a": 1}}, {"references": "$.parts[0]"}, "$.parts is an object"),
        ({"parts": ["p"]}, {"references": "$.parts.key"}, "$.parts is an array"),
        ({"parts": ["p"]}, {"references": "$.parts[*].key"}, "$.parts[0] is text"),
        ({"parts": ["p"]}, {"references": "$.parts"}, "$.parts: is an array"),
        ("p", {}, "$ is text"),
        ({"parts": [""]}, {}, "$.parts[0]: is empty"),
        ({"parts": ["../p"]}, {}, "$.parts[0]: 'data/../p' has a segment '.' or '..'"),
        ({"parts": ["a/./b"]}, {}, "segment"),
        ({"parts": ["a/.."]}, {}, "segment"),
        ({"parts": [".."]}, {"key": "{value}/x"}, "segment"),
        ({"parts": ["a\0"]}, {}, "NUL"),
        ({"parts": ["x" * 1020]}, {}, "the limit is 1024"),
        ({"parts": ["\ud800"]}, {}, "not valid UTF-8"),
        ({"parts": ["s3://other/p"]}, {}, "'s3://other/p' is in another bucket than bucket"),
        ({"parts": ["s3://bucket"]}, {}, "the key is empty"),
        ({"parts": ["s3://bucket/"]}, {}, "the key is empty"),
        ({"parts": ["s3:///p"]}, {}, "another bucket"),
        ({"parts": ["s3://bucket/data/../p"]}, {}, "segment"),
        ({"parts": ["https://bucket/p"]}, {}, "is neither s3"),
        ({"parts": ["hdfs://bucket/p"]}, {}, "is neither s3"),
        (b'{"parts": [1e999]}', {}, "$.parts[0]: is a number too large"),
        ({"a b": {"c": [1, {}]}}, {"references": "$['a b'].c[*]"}, "$['a b'].c[1]"),
    ],
)
def test_what_names_no_object_is_refused_with_its_place(document: Any, settings: dict[str, Any], message: str) -> None:
    assert message in refusal(document, **settings)


def test_more_references_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered: 1,400,001 references take seconds to make."""
    monkeypatch.setattr("replication.manifests.locations.MAX_REFERENCES", 3)
    assert len(named({"parts": ["a", "b", "c", "a"]})) == 3
    assert "names more than 3 objects" in refusal({"parts": ["a", "b", "c", "d"]})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)
PATHS = [
    "$.parts[*]",
    "$..*",
    "$[*][*]",
    "/parts",
    "$.parts[?@.a < 3 || !@.b].c",
    "$.parts[0:3:2]",
    "$.parts[-1]['a','b',0]",
    "$[?length(@) > 1]",
    "$[?count(@.*) == value(@.a)]",
]


@given(
    st.binary() | VALUES.map(lambda value: json.dumps({"parts": value}).encode()),
    st.sampled_from(PATHS),
    st.sampled_from(["{value}", "{dir}{value}", "{a}/{b}"]),
)
def test_no_bytes_do_anything_but_name_or_be_refused(content: bytes, path: str, key: str) -> None:
    try:
        keys = named(content, references=path, key=key)
    except InvalidManifest as refused:
        str(refused).encode()
        return
    assert len(set(keys)) == len(keys)
    assert all(name and len(name.encode()) <= 1024 for name in keys)


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["$", "$.a", "$['a b'][*]", "$..a[?@.b == 'c']", "/a", "/", "/a~0b/0"])
def test_a_sound_path_is_kept(text: str) -> None:
    assert check_path(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "$.",
        "$[",
        "$.a |",
        "$.a | $.b",
        "$[?@.a =~ 'x']",
        "$.a b",
        " $.a",
        "$.a ",
        "$[?nope(@)]",
        "$[99999999999999999999]",
        "/a~",
        "/a~2",
        "@.a",
        "$[?" + "(" * 2000,
    ],
)
def test_an_impossible_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_path(text)
    assert "\n" not in str(caught.value)


@given(st.text() | st.text("$.[]*?@'\"()&|!=<>~/0a ,:^_#").map("$".__add__))
def test_no_text_does_anything_but_be_a_path_or_be_refused(text: str) -> None:
    try:
        problem = "" if check_path(text) == text else "changed"
    except ValueError as refused:
        problem = str(refused)
    assert "\n" not in problem
    assert problem != "changed"


@pytest.mark.parametrize("text", ["{value}", "{dir}{value}", "{a}{b-c}/{d.e}", "{{}}{value}"])
def test_a_sound_template_is_kept(text: str) -> None:
    assert check_template(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{dir}",
        "{dir}x",
        "{",
        "}",
        "{value",
        "value}",
        "{}",
        "{}{value}",
        "{value}{a}",
        "../{value}",
        "{value}/.",
        "{value}/../x",
        "{dir}../{value}",
        "\0{value}",
        "x" * 1100 + "{value}",
        "{{value}}",
    ],
)
def test_an_impossible_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        check_template(text)


@given(st.text() | st.text("{}vadir/."))
def test_no_text_does_anything_but_be_a_template_or_be_refused(text: str) -> None:
    try:
        check_template(text)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"match": "*"}, ()),
        ({"match": "*", "references": []}, ()),
        ({"match": "*", "references": ["$.a", "b"]}, ("references", 1)),
        ({"match": "*", "references": "$.a", "key": "x"}, ("key",)),
        ({"match": "*", "kind": "iceberg", "references": "$.a"}, ()),
        ({"match": "*", "kind": "success", "references": "$.a"}, ()),
    ],
)
def test_a_rule_that_cannot_work_is_refused_by_its_place(rule: dict[str, Any], place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        DependencyRule.model_validate(rule)
    assert [error["loc"] for error in caught.value.errors()] == [place]
