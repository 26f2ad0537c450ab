"""Manifests as bytes: what is read, what is refused, and that nothing makes the reader run away."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import InvalidManifest
from replication.manifests import documents
from replication.manifests.documents import MAX_DEPTH, MAX_MANIFEST_BYTES, MAX_VALUES, load, parse_lines

MIB = 1024 * 1024
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def refusal(content: bytes, content_encoding: str = "") -> str:
    with pytest.raises(InvalidManifest) as caught:
        load(content, content_encoding)
    message = str(caught.value)
    assert len(message) < 300
    assert "\n" not in message
    message.encode()
    return message


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_a_document_is_what_any_reader_says_it_is(document: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert load(text.encode()) == json.loads(text)


@given(st.binary() | st.text().map(str.encode) | st.text('[]{}",:\\ 1nul').map(str.encode), st.sampled_from(["", "gzip"]))
def test_no_bytes_do_anything_but_load_or_be_refused(content: bytes, content_encoding: str) -> None:
    try:
        load(content, content_encoding)
        list(parse_lines(content))
    except InvalidManifest as refused:
        message = str(refused)
        assert message.encode()
        assert "\n" not in message


# --- the malformed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value (line 1, column 1)"),
        (b'{"parts": ["p"', "is not JSON: Expecting ',' delimiter (line 1, column 15)"),
        (b'{"parts": ["p', "is not JSON: Unterminated string"),
        (b"{} {}", "is not JSON: Extra data"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b'["\x01"]', "is not JSON: Invalid control character"),
        (b'["\xff"]', "is not UTF-8 at byte 2"),
        (b'["\xed\xa0\x80"]', "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "byte order mark"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16 or UTF-32"),
        ('{"a": 1}'.encode("utf-16-be"), "UTF-16 or UTF-32"),
        ('{"a": 1}'.encode("utf-32-le"), "UTF-16 or UTF-32"),
        (b'{"a": NaN}', "is not JSON: NaN"),
        (b"[-Infinity]", "is not JSON: -Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', "has the name 'a' twice in one object"),
        (b'[{"x": {"\\ud800": 1, "\\ud800": 2}}]', "twice in one object"),
        (b"[" + b"9" * 5000 + b"]", "a number too long"),
        (b"[" * 100_000, "is not JSON"),
        (b"[" * 900 + b"x", "JSON"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(content: bytes, message: str) -> None:
    told = refusal(content)
    assert message in told or (message == "is not JSON" and "brackets too deep" in told)


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":', b"}]")])
def test_nesting_is_bounded_exactly(pair: tuple[bytes, bytes]) -> None:
    levels = MAX_DEPTH // len(pair[0].replace(b'"]":', b"").replace(b'"a":', b""))
    load(pair[0] * levels + b"1" + pair[1] * levels)
    assert "nested deeper" in refusal(pair[0] * (levels + 1) + b"1" + pair[1] * (levels + 1))


@pytest.mark.parametrize("text", ["[" * 500, '"' * 500, "\\" * 500, '["' * 300, '\\"[' * 300, "a]b[c"])
def test_what_stands_in_strings_is_no_nesting(text: str) -> None:
    document = {"a": [text, {text: text}], "": ["", text]}
    assert load(json.dumps(document).encode()) == document


def test_neither_values_nor_punctuation_are_unbounded() -> None:
    assert f"more than {MAX_VALUES} values" in refusal(b"[" + b"{}," * (MAX_VALUES // 2 + 1) + b"1]")
    assert "brackets, commas and quotes" in refusal(b"[" + b'",",' * (MAX_MANIFEST_BYTES // 4 - 1) + b"1]")


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_what_is_larger_than_the_limit_is_refused_before_it_is_read() -> None:
    assert f"more than {MAX_MANIFEST_BYTES} bytes" in refusal(bytes(MAX_MANIFEST_BYTES + 1))
    assert load(b"[" + b" " * (MAX_MANIFEST_BYTES - 2) + b"]") == []


def test_gzip_is_unpacked_also_in_several_members() -> None:
    packed = gzip.compress(b'{"parts": ') + gzip.compress(b"") + gzip.compress(b'["p"]}')
    for encoding in ("gzip", "GZIP", "x-gzip", " gzip , aws-chunked", "identity,gzip"):
        assert load(packed, encoding) == {"parts": ["p"]}


def packed(data: bytes) -> bytes:
    """The same bytes whenever it is called: a test's name must not depend on the clock."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("encoding", ["", "identity", "aws-chunked", " "])
def test_encodings_that_change_nothing_are_taken(encoding: str) -> None:
    assert load(b"[1]", encoding) == [1]


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"[1]", "gzip", "gzip is damaged"),
        (b"", "gzip", "gzip is cut short"),
        (packed(b"[1]")[:-1], "gzip", "gzip is cut short"),
        (packed(b"[1]")[:-8] + bytes(8), "gzip", "gzip is damaged"),
        (packed(b"[1]") + b"more", "gzip", "gzip is"),
        (packed(b"[1]"), "", "UTF-8"),
        (packed(packed(b"[1]")), "gzip,gzip", "only gzip is read"),
        (b"[1]", "br", "only gzip is read"),
        (b"[1]", "zstd" * 1000, "only gzip is read"),
        (packed(b"") * 10_001, "gzip", "more than 10000 members"),
    ],
)
def test_encodings_that_cannot_be_undone_are_refused(content: bytes, encoding: str, message: str) -> None:
    assert message in refusal(content, encoding)


def test_a_gzip_bomb_is_refused_within_bounded_memory() -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", mtime=0) as packing:
        for _ in range(64):
            packing.write(bytes(16 * MIB))
    assert len(bomb.getvalue()) < 2 * MIB
    tracemalloc.start()
    try:
        assert "when unpacked" in refusal(bomb.getvalue(), "gzip")
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_MANIFEST_BYTES
    finally:
        tracemalloc.stop()


def test_exactly_the_limit_may_be_unpacked() -> None:
    document = b"[" + b" " * (MAX_MANIFEST_BYTES - 2) + b"]"
    assert load(zlib.compress(document, wbits=31), "gzip") == []
    assert "when unpacked" in refusal(zlib.compress(document + b" ", wbits=31), "gzip")


# --- lines -----------------------------------------------------------------------------------------------------------


def test_lines_are_told_apart_by_newlines_alone() -> None:
    data = '\n{"a": "x\u2028y\x85"}\r\n\n  \n[2]'.encode()
    assert list(parse_lines(data)) == [(2, {"a": "x\u2028y\x85"}), (5, [2])]
    assert list(parse_lines(b"\n\n")) == list(parse_lines(b"")) == []


def test_a_bad_line_is_told_by_its_number() -> None:
    with pytest.raises(InvalidManifest, match=r"\Aline 3: is not JSON"):
        list(parse_lines(b'{}\n\n{"a"\n'))


def test_the_look_at_brackets_sees_every_depth() -> None:
    assert not documents._deeper_than(2, b"[[][]]")
    assert documents._deeper_than(2, b"[[][[]]]")
