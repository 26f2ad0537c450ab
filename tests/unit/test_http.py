"""The data plane against a scripted server: what is sent once, and what may be asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from replication.errors import ServerFault
from stores.chunks import Chunks, gathered
from stores.http import HttpPlane


class Scripted:
    """Closes the first `drops` connections after it has read a request; answers the others. Counts requests by method."""

    def __init__(self, drops: int) -> None:
        self.drops = drops
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen.append(head.split(b" ", 1)[0].decode())
        if self.drops:
            self.drops -= 1
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def plane() -> AsyncIterator[HttpPlane]:
    plane = HttpPlane()
    yield plane
    await plane.close()


async def ask(plane: HttpPlane, scripted: Scripted, method: str, data: bytes | None = None, *, whole: bool = False) -> bytes:
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    async with server:
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if whole:
            return (await plane.exchange(method, origin, "/x", {"host": "x"}, data, max_body=100))[2]
        if method == "GET":
            async with plane.open(method, origin, "/x", {"host": "x"}) as answer:
                return await gathered(answer.chunks(), 100)
        return (await plane.exchange(method, origin, "/x", {"content-length": str(len(data or b""))}, stream(data), max_body=100))[2]


async def stream(data: bytes | None) -> Chunks:
    if data:
        yield data


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_write_whose_answer_is_lost_is_sent_once(plane: HttpPlane, method: str, whole: bool) -> None:
    scripted = Scripted(drops=1)
    with pytest.raises(ServerFault):
        await ask(plane, scripted, method, b"x" if method != "DELETE" else None, whole=whole)

    assert scripted.seen == [method]


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
async def test_a_read_is_asked_once_more_when_the_connection_closed_before_an_answer(plane: HttpPlane, whole: bool) -> None:
    scripted = Scripted(drops=1)

    assert await ask(plane, scripted, "GET", whole=whole) == b"ok"
    assert scripted.seen == ["GET", "GET"]


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
async def test_a_read_that_fails_again_is_a_fault(plane: HttpPlane, whole: bool) -> None:
    scripted = Scripted(drops=2)
    with pytest.raises(ServerFault):
        await ask(plane, scripted, "GET", whole=whole)

    assert scripted.seen == ["GET", "GET"]
