"""Our own connections against a scripted server: when they are used again, and how a request on them fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replication.errors import EndpointUnreachable, ServerFault, StoreTimeout
from stores.answer import AnswerReader
from stores.connections import Connections, encode_head

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request on a connection with the next of `answers`, the last one for ever; None is silence."""

    def __init__(self, *answers: bytes | None, close_after: bool = False) -> None:
        self._answers = list(answers)
        self._close_after = close_after
        self.origin = ""
        self.opened = 0
        self.ended = asyncio.Event()
        self.asked = asyncio.Event()
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                self.bodies.append(await reader.readexactly(length))
                self.asked.set()
                if (answer := self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]) is not None:
                    writer.write(answer)
                if self._close_after:
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


async def test_a_port_without_a_listener_is_unreachable(connections: Connections) -> None:
    async with running(Server(OK)) as server:
        pass
    with pytest.raises(EndpointUnreachable):
        await ask(connections, server)


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
