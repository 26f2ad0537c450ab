"""A body withholds its last chunk until it is known to be right."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from replication.errors import IntegrityMismatch
from stores.body import Body
from stores.checksum import Digest, crc32c
from stores.chunks import Chunk


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def handed_out(body: Body) -> tuple[list[Chunk], Exception | None]:
    """The chunks that came before the end or the error."""
    got: list[Chunk] = []
    try:
        async for chunk in body:
            got.append(chunk)
    except IntegrityMismatch as error:
        return got, error
    return got, None


async def test_a_right_body_comes_out_whole_with_its_digest() -> None:
    body = Body(stream(b"one", b"two", b"three"), 11)
    assert await handed_out(body) == ([b"one", b"two", b"three"], None)
    assert (body.digest.size_bytes, body.digest.crc32c) == (11, crc32c(b"onetwothree"))


@pytest.mark.parametrize("size", [10, 12, 0])
async def test_the_last_chunk_is_withheld_when_the_length_is_wrong(size: int) -> None:
    got, error = await handed_out(Body(stream(b"one", b"two", b"three"), size))
    assert isinstance(error, IntegrityMismatch)
    assert sum(map(len, got)) < 11


async def test_the_last_chunk_is_withheld_when_the_check_refuses() -> None:
    seen: list[int] = []

    def refuse(digest: Digest) -> None:
        seen.append(digest.crc32c)
        raise IntegrityMismatch("differs")

    got, error = await handed_out(Body(stream(b"one", b"two"), 6, check=refuse))
    assert (got, type(error)) == ([b"one"], IntegrityMismatch)
    assert seen == [crc32c(b"onetwo")]


async def test_nothing_of_a_single_chunk_comes_out_when_the_check_refuses() -> None:
    def refuse(digest: Digest) -> None:
        raise IntegrityMismatch("differs")

    got, error = await handed_out(Body(stream(b"all"), 3, check=refuse))
    assert (got, type(error)) == ([], IntegrityMismatch)


async def test_an_empty_body_is_checked_too() -> None:
    checked: list[int] = []
    assert await handed_out(Body(stream(), 0, check=lambda digest: checked.append(digest.size_bytes))) == ([], None)
    assert checked == [0]
    assert isinstance((await handed_out(Body(stream(), 1)))[1], IntegrityMismatch)


@pytest.mark.parametrize("data", [b"", b"x", b"some bytes"])
async def test_a_body_of_bytes_knows_its_checksum_before_the_first_is_sent(data: bytes) -> None:
    body = Body.of(data)
    assert (body.size_bytes, body.known_crc32c) == (len(data), crc32c(data))
    assert await body.gather() == data
    assert body.result().crc32c == crc32c(data)


async def test_a_digest_computed_before_is_the_result_of_a_gathered_body() -> None:
    before = Digest()
    before.update(b"bytes")
    body = Body.of(b"bytes", checked=before)
    await body.gather()
    assert body.known_crc32c == before.crc32c
    assert body.result() is before
