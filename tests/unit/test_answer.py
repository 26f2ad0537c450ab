"""Reading one HTTP answer: the same however its bytes arrive, and nothing that is not framed as it should be."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import ServerFault
from stores.answer import MAX_HEAD, AnswerReader

FIXED = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx-trailer: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"


def read(raw: bytes, cuts: list[int] = [], *, method: str = "GET", max_body: int = 100) -> tuple[AnswerReader, bool]:  # noqa: B006
    reader, whole = AnswerReader(method, max_body), False
    edges = [0, *sorted(cuts), len(raw)]
    for start, end in pairwise(edges):
        if end > start:
            whole = reader.feed(raw[start:end])
    return reader, whole


@pytest.mark.parametrize(("raw", "status", "body"), [(FIXED, 200, b"hello"), (CHUNKED, 200, b"hello!"), (INTERIM, 204, b"")])
@given(cuts=st.lists(st.integers(1, 110), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(raw: bytes, status: int, body: bytes, cuts: list[int]) -> None:
    reader, whole = read(raw, [cut for cut in cuts if cut < len(raw)])

    assert (whole, reader.status, reader.body, reader.keeps) == (True, status, body, True)


@pytest.mark.parametrize("value", [b"caf\xc3\xa9", b"caf\xe9"], ids=["UTF-8", "ISO 8859-1"])
def test_headers_ignore_case_and_are_text_whatever_bytes_they_are(value: bytes) -> None:
    reader, _ = read(b"HTTP/1.1 200 OK\r\nX-Amz-Meta-A: " + value + b"\r\nX-Amz-Meta-B: \xc3\xa9\r\nContent-Length: 0\r\n\r\n")

    assert (reader.headers["x-amz-meta-a"], reader.headers["x-amz-meta-b"]) == ("café", "é")
    assert reader.headers.get("X-AMZ-META-A") == reader.headers["x-amz-meta-a"]
    assert "content-LENGTH" in reader.headers


def test_the_answer_to_a_head_has_a_length_and_no_body() -> None:
    reader, whole = read(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n", method="HEAD")

    assert (whole, reader.body, reader.keeps) == (True, b"", True)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader, whole = read(b"HTTP/1.1 200 OK\r\n\r\nabc")

    assert not whole
    assert reader.end()
    assert (reader.body, reader.keeps) == (b"abc", False)


@pytest.mark.parametrize("raw", [FIXED[:-1], CHUNKED[:-2], FIXED[:20]])
def test_an_answer_that_is_cut_short_does_not_end_with_the_connection(raw: bytes) -> None:
    reader, whole = read(raw)

    assert not whole
    assert not reader.end()


@pytest.mark.parametrize("raw", [FIXED + b"x", CHUNKED + b"x", INTERIM + b"x", FIXED.replace(b"ETag", b"Connection: close\r\nETag")])
def test_a_connection_with_more_on_it_or_that_ends_is_not_used_again(raw: bytes) -> None:
    reader, whole = read(raw)

    assert whole
    assert not reader.keeps


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD,
    ],
)
def test_what_is_not_an_answer_or_too_large_is_a_fault(raw: bytes) -> None:
    with pytest.raises(ServerFault):
        read(raw)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (CHUNKED.replace(b"5;a=b\r\nhello\r\n", b"1\r\nx\r\n" * 90_000), b"x" * 90_000 + b"!"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 60_000 + FIXED, b"hello"),
    ],
    ids=["chunks", "interim answers"],
)
def test_an_answer_in_very_many_pieces_takes_time_and_memory_of_its_length(raw: bytes, body: bytes) -> None:
    began = time.process_time()
    reader, whole = read(raw, max_body=1 << 20)

    assert time.process_time() - began < 3
    assert whole
    assert reader.body == body
    assert len(reader.take()) == 1
