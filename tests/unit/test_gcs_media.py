"""No byte of a media answer is believed before its head is exactly what was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from replication.errors import IntegrityMismatch, SourceChanged
from replication.models import Version
from stores.chunks import exactly
from stores.gcs_media import check_media

PIN = Version(100, id="7")
RANGE = {"Content-Range": "bytes 10-19/100", "Content-Length": "10", "X-Goog-Generation": "7"}
WHOLE = {"Content-Length": "100", "X-Goog-Generation": "7"}
GZIP = {"X-Goog-Stored-Content-Encoding": "gzip"}


def test_exact_answers_pass() -> None:
    check_media(206, RANGE, PIN, 10, 10)
    check_media(200, WHOLE, PIN, 0, 100)
    check_media(200, {}, PIN, 0, 100)
    check_media(206, RANGE | GZIP | {"Content-Encoding": "gzip"}, PIN, 10, 10)
    check_media(200, WHOLE | {"X-Goog-Stored-Content-Encoding": "identity"}, PIN, 0, 100)


@pytest.mark.parametrize(
    ("status", "headers", "offset", "length"),
    [
        (200, WHOLE, 10, 10),
        (206, RANGE, 11, 10),
        (206, RANGE | {"Content-Range": "bytes 10-19/101"}, 10, 10),
        (206, RANGE | {"Content-Length": "11"}, 10, 10),
        (206, {"Content-Length": "10"}, 10, 10),
        (206, WHOLE, 0, 100),
        (200, WHOLE | {"Content-Length": "1200"}, 0, 100),
        (200, WHOLE | GZIP, 0, 100),
        (206, RANGE | GZIP, 10, 10),
        (200, WHOLE | {"Content-Encoding": "gzip", "X-Goog-Stored-Content-Encoding": "identity"}, 0, 100),
    ],
)
def test_any_other_answer_is_a_mismatch(status: int, headers: dict[str, str], offset: int, length: int) -> None:
    with pytest.raises(IntegrityMismatch):
        check_media(status, headers, PIN, offset, length)


def test_another_generation_is_a_changed_source() -> None:
    with pytest.raises(SourceChanged):
        check_media(200, WHOLE | {"X-Goog-Generation": "8"}, PIN, 0, 100)


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("chunks", [(b"abc",), (b"abc", b"de", b"f"), ()])
async def test_a_stream_of_another_length_is_a_mismatch(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(IntegrityMismatch):
        _ = [chunk async for chunk in exactly(stream(*chunks), 5)]


async def test_a_stream_of_the_right_length_passes() -> None:
    assert [chunk async for chunk in exactly(stream(b"abc", b"de"), 5)] == [b"abc", b"de"]
