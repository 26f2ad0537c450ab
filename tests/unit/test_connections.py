"""Our own connections against a scripted server: when they are used again, and how a request on them fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from replication.errors import EndpointUnreachable, IntegrityMismatch, ServerFault, StoreTimeout
from stores.answer import AnswerReader
from stores.chunks import Chunks, gathered
from stores.connection import BLOCK, MAX_WHOLE, AnswerStream, Connection, Unanswered, encode_head
from stores.connections import Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request on a connection with the next of `answers`, the last one for ever; None is silence.

    Of a body that is longer than `takes` it reads only so much, answers, and reads no more.
    """

    def __init__(self, *answers: bytes | None, close_after: bool = False, takes: int | None = None) -> None:
        self._answers = list(answers)
        self._close_after = close_after
        self._takes = takes
        self.stopped = asyncio.Event()
        self.origin = ""
        self.opened = 0
        self.ended = asyncio.Event()
        self.asked = asyncio.Event()
        self.bodies: list[bytes] = []
        self.unsent: Callable[[], int] = int

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.unsent = writer.transport.get_write_buffer_size
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                cut = self._takes is not None and length > self._takes
                self.bodies.append(await reader.readexactly(self._takes if cut and self._takes else length))
                self.asked.set()
                if (answer := self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]) is not None:
                    writer.write(answer)
                    await writer.drain()
                if cut:
                    await self.stopped.wait()
                if cut or self._close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.ended.set()
        writer.close()


def self_signed(folder: Path) -> ssl.SSLContext:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listening:
        server.origin = f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        server.stopped.set()


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.close()


def ask(
    connections: Connections, server: Server, method: str = "GET", data: bytes | None = None, idle_s: float = 20
) -> Awaitable[AnswerReader]:
    return connections.exchange(method, server.origin, "/a//b", {"host": "x"}, data, max_body=100, idle_timeout_s=idle_s)


async def test_a_connection_is_used_again(connections: Connections) -> None:
    async with running(Server(OK)) as server:
        for size in (None, 10, 3_000_000):
            answer = await ask(connections, server, "PUT", b"x" * size if size else None)
            assert (answer.status, answer.body) == (200, b"ok")

        assert server.opened == 1
        assert [len(body) for body in server.bodies] == [0, 10, 3_000_000]


@pytest.mark.parametrize("answer", [OK + b"HTTP/1.1 200 OK\r\n", OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")])
async def test_a_connection_that_may_be_out_of_step_is_not(connections: Connections, answer: bytes) -> None:
    async with running(Server(answer)) as server:
        await ask(connections, server)
        await ask(connections, server)

        assert server.opened == 2


async def test_a_connection_that_the_server_closed_is_not(connections: Connections) -> None:
    async with running(Server(OK, close_after=True)) as server:
        for number in (1, 2):
            await ask(connections, server)
            await server.ended.wait()
            await asyncio.sleep(0.05)
            assert server.opened == number


async def test_a_cancelled_request_takes_its_connection_with_it(connections: Connections) -> None:
    async with running(Server(None)) as server:
        asking = asyncio.ensure_future(ask(connections, server))
        await server.asked.wait()
        asking.cancel()

        await asyncio.wait_for(server.ended.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_silence_is_a_timeout(connections: Connections) -> None:
    async with running(Server(OK[:30])) as server:
        with pytest.raises(StoreTimeout):
            await ask(connections, server, idle_s=0.1)


async def test_an_answer_that_breaks_off_is_a_fault(connections: Connections) -> None:
    async with running(Server(OK[:-1], close_after=True)) as server:
        with pytest.raises(ServerFault, match="in the middle"):
            await ask(connections, server)


def stream(
    connections: Connections, server: Server, idle_s: float = 20, *, fresh: bool = False
) -> contextlib.AbstractAsyncContextManager[AnswerStream]:
    return connections.open("GET", server.origin, "/a", {"host": "x"}, idle_timeout_s=idle_s, fresh=fresh)


def fixed(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


BODY = random.Random(1).randbytes(3 * BLOCK + 1)
STREAMS = {
    "fixed": fixed(BODY),
    "nothing": fixed(b""),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "to-the-end": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("answer", STREAMS)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_an_answer_is_read_as_it_comes(answer: str, secure: bool, tmp_path: Path) -> None:
    connections, closes = Connections(verify=False), answer == "to-the-end"
    async with running(Server(STREAMS[answer], close_after=closes), self_signed(tmp_path) if secure else None) as server:
        for _ in range(2):
            async with stream(connections, server) as told:
                assert told.status == 200
                assert await gathered(told.chunks(), 1 << 30) == (b"" if answer == "nothing" else BODY)

        assert server.opened == (2 if closes else 1)
        await connections.close()


class Source:
    """A body of `count` times `BLOCK` bytes as it comes, which may break off with `failure`; tells how much was taken of it."""

    def __init__(self, count: int, failure: Exception | None = None, pause_s: float = 0.0) -> None:
        self.count = count
        self.failure = failure
        self.pause_s = pause_s
        self.taken = 0

    async def chunks(self) -> Chunks:
        for number in range(self.count):
            self.taken += 1
            await asyncio.sleep(self.pause_s)
            yield memoryview(bytes([number % 251]) * BLOCK)
        if self.failure is not None:
            raise self.failure

    @property
    def whole(self) -> bytes:
        return b"".join(bytes([number % 251]) * BLOCK for number in range(self.count))


async def send(connections: Connections, server: Server, source: Source, idle_s: float = 20) -> AnswerReader:
    headers = {"host": "x", "content-length": str(source.count * BLOCK)}
    return await connections.exchange("PUT", server.origin, "/a", headers, source.chunks(), max_body=100, idle_timeout_s=idle_s)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_body_is_sent_as_it_comes(secure: bool, tmp_path: Path) -> None:
    connections = Connections(verify=False)
    async with running(Server(OK), self_signed(tmp_path) if secure else None) as server:
        for source in (Source(40), Source(1), Source(0)):
            assert (await send(connections, server, source)).body == b"ok"
            assert server.bodies.pop() == source.whole

        assert server.opened == 1
        await connections.close()


async def test_large_bytes_are_sent_in_pieces(connections: Connections) -> None:
    data = random.Random(2).randbytes(MAX_WHOLE + BLOCK + 1)
    async with running(Server(OK)) as server:
        assert (await ask(connections, server, "PUT", data)).body == b"ok"
        assert server.bodies == [data]


async def test_a_slow_source_is_no_silence_of_the_server(connections: Connections) -> None:
    async with running(Server(OK)) as server:
        assert (await send(connections, server, Source(3, pause_s=0.3), idle_s=0.2)).body == b"ok"


async def test_a_server_that_takes_nothing_more_is_a_timeout_and_is_not_fed(connections: Connections) -> None:
    source = Source(256)
    async with running(Server(None, takes=10)) as server:
        with pytest.raises(StoreTimeout):
            await send(connections, server, source, idle_s=0.2)

    assert source.taken < 64


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("closes", [False, True])
async def test_a_refusal_before_the_end_of_a_body_ends_it_and_its_connection(connections: Connections, closes: bool) -> None:
    source = Source(256)
    async with running(Server(REFUSAL, takes=10)) as server:
        if closes:
            server.stopped.set()
        answer = await send(connections, server, source)
        assert (answer.status, answer.body) == (403, b"no")
        assert source.taken < 64

        await ask(connections, server, "PUT")
        assert server.opened == 2


async def test_a_success_before_the_end_of_a_body_is_a_fault(connections: Connections) -> None:
    async with running(Server(OK, takes=10)) as server:
        with pytest.raises(ServerFault, match="before it had the whole body"):
            await send(connections, server, Source(256))


async def test_what_a_source_raises_comes_as_itself_and_the_server_has_no_whole_body(connections: Connections) -> None:
    source = Source(8, failure=IntegrityMismatch("wrong"))
    source.count, length = 7, str(8 * BLOCK)
    async with running(Server(OK)) as server:
        with pytest.raises(IntegrityMismatch, match="wrong"):
            await connections.exchange(
                "PUT", server.origin, "/a", {"content-length": length}, source.chunks(), max_body=100, idle_timeout_s=20
            )
        await asyncio.wait_for(server.ended.wait(), 5)
        assert server.bodies == []


async def test_a_connection_that_breaks_under_a_body_is_a_fault_of_its_own(connections: Connections) -> None:
    async with running(Server(None, takes=10)) as server:
        server.stopped.set()
        with pytest.raises(Unanswered):
            await send(connections, server, Source(256))


def test_a_body_that_is_sent_as_it_comes_needs_its_length() -> None:
    with pytest.raises(ValueError, match="length"):
        encode_head("PUT", "/a", {}, Source(1).chunks())


async def test_pieces_stay_as_they_are_while_others_come(connections: Connections) -> None:
    async with running(Server(STREAMS["fixed"])) as server, stream(connections, server) as told:
        assert b"".join([chunk async for chunk in told.chunks()]) == BODY


async def test_an_answer_that_is_left_early_takes_its_connection_with_it(connections: Connections) -> None:
    async with running(Server(fixed(bytes(64 * BLOCK)))) as server:
        async with stream(connections, server) as told:
            await anext(told.chunks())
        await asyncio.wait_for(server.ended.wait(), 5)
        async with stream(connections, server):
            assert server.opened == 2


async def test_no_more_is_read_ahead_than_somebody_takes(connections: Connections) -> None:
    async with running(Server(fixed(bytes(256 * BLOCK)))) as server, stream(connections, server, idle_s=0.2) as told:
        chunks = told.chunks()
        taken = len(await anext(chunks))
        await asyncio.sleep(0.5)  # longer than the time limit: the server is not to blame for who does not listen
        assert server.unsent() > 192 * BLOCK  # the others are in the kernel

        async for chunk in chunks:
            taken += len(chunk)
        assert taken == 256 * BLOCK


async def test_silence_in_the_middle_is_a_timeout(connections: Connections) -> None:
    async with running(Server(fixed(BODY)[:-1])) as server, stream(connections, server, idle_s=0.1) as told:
        with pytest.raises(StoreTimeout):
            await gathered(told.chunks(), 1 << 30)


async def test_what_came_before_the_connection_broke_is_given(connections: Connections) -> None:
    got = bytearray()

    async def take() -> None:
        async with stream(connections, server) as told:
            async for chunk in told.chunks():
                got.extend(chunk)

    async with running(Server(fixed(BODY)[:-1], close_after=True)) as server:
        with pytest.raises(ServerFault, match="in the middle"):
            await take()
    assert got == BODY[:-1]


async def test_no_head_is_a_fault_of_its_own(connections: Connections) -> None:
    async with running(Server(b"", close_after=True)) as server:
        with pytest.raises(Unanswered):
            async with stream(connections, server):
                pass


async def test_a_port_without_a_listener_is_unreachable(connections: Connections) -> None:
    async with running(Server(OK)) as server:
        pass
    with pytest.raises(EndpointUnreachable):
        await ask(connections, server)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_a_name_that_no_resolver_takes_is_unreachable(connections: Connections, host: str) -> None:
    with pytest.raises(EndpointUnreachable):
        await connections.exchange("GET", f"http://{host}", "/", {}, None, max_body=10, idle_timeout_s=1)


async def test_an_endpoint_whose_certificate_nobody_vouches_for_is_unreachable(connections: Connections, tmp_path: Path) -> None:
    for verifying, expected in ((connections, EndpointUnreachable), (Connections(verify=False), None)):
        async with running(Server(OK), self_signed(tmp_path)) as server:
            with pytest.raises(expected) if expected else contextlib.nullcontext():
                assert (await ask(verifying, server)).body == b"ok"
        await verifying.close()


async def test_closing_fails_what_is_under_way(connections: Connections) -> None:
    async with running(Server(None)) as server:
        asking = asyncio.ensure_future(ask(connections, server))
        await server.asked.wait()
        await connections.close()
        with pytest.raises(ConnectionError):
            await asking


@pytest.mark.parametrize(("target", "value"), [("/a b", "x"), ("/a\r\nb", "x"), ("/a", "x\r\ny: z"), ("/a", "x\0")])
def test_nothing_slips_a_header_in(target: str, value: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_head("GET", target, {"host": value}, None)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_bytes_that_leave_slowly_are_no_silence(secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_buffers(connection: Connection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        made(connection, transport)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = MAX_WHOLE
        while left and (data := await reader.read(65536)):
            left -= len(data)
            await asyncio.sleep(len(data) / (4 << 20))
        writer.write(OK)
        writer.close()

    made = Connection.connection_made
    monkeypatch.setattr(Connection, "connection_made", small_buffers)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    listener.bind(("127.0.0.1", 0))
    connections = Connections(verify=False)
    async with await asyncio.start_server(serve, sock=listener, ssl=self_signed(tmp_path) if secure else None):
        origin = f"{'https' if secure else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        asking = connections.exchange("PUT", origin, "/a", {"host": "x"}, bytes(MAX_WHOLE), max_body=100, idle_timeout_s=0.7)
        assert (await asking).body == b"ok"
        await connections.close()


async def test_a_dead_address_of_a_name_does_not_hide_the_others(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async def addresses(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    with contextlib.ExitStack() as held:
        dead = held.enter_context(socket.socket())
        dead.bind(("127.0.0.2", 0))
        dead.listen(0)
        for _ in range(4):  # the line of those who want in is full: nobody else gets an answer
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(dead.getsockname())
        server = Server(OK)
        async with await asyncio.start_server(server.serve, "127.0.0.1", dead.getsockname()[1]):
            server.origin = f"http://store.example:{dead.getsockname()[1]}"
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
            assert (await asyncio.wait_for(ask(connections, server), 5)).body == b"ok"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_requests_go_over_either_event_loop(loop_factory: Callable[[], asyncio.AbstractEventLoop], secure: bool, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(take_one, listener, self_signed(tmp_path) if secure else None)
        origin = f"{'https' if secure else 'http'}://localhost:{listener.getsockname()[1]}"

        async def put() -> bytes:
            connections = Connections(verify=False)
            asking = connections.exchange("PUT", origin, "/a", {"host": "x"}, bytes(MAX_WHOLE), max_body=100, idle_timeout_s=5)
            answer = await asking
            await connections.close()
            return answer.body

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(put()) == b"ok"
        assert serving.result(5) == MAX_WHOLE


def take_one(listener: socket.socket, secured: ssl.SSLContext | None) -> int:
    """Answers one request from a thread; how many bytes its body had."""
    connection, _ = listener.accept()
    with secured.wrap_socket(connection, server_side=True) if secured else connection as client, client.makefile("rb") as received:
        while received.readline() != b"\r\n":
            pass
        size = len(received.read(MAX_WHOLE))
        client.sendall(OK)
        return size
