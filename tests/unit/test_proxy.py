"""Every fault of the proxy, shown against a small real server: what the client sees and what the server did."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.poll import eventually
from tests.proxy import (
    Delay,
    DropResponse,
    DuplicateRequest,
    FaultProxy,
    Flip,
    Reset,
    RewriteHeader,
    Rule,
    Stall,
    Status,
    StripHeader,
    Truncate,
    TruncateFixLength,
)

BODY = bytes(range(256)) * 400


@dataclass
class Origin:
    """A server that keeps what is PUT and remembers every request it carried out."""

    objects: dict[str, bytes] = field(default_factory=lambda: {"/o": BODY})
    carried_out: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    endpoint: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.carried_out.append((request.method, dict(request.headers), body))
        if request.method == "PUT":
            self.objects[request.raw_path] = body
            return web.Response(headers={"ETag": '"put"', "X-Count": str(len(self.carried_out))})
        if request.raw_path == "/chunked":
            return await self._chunked(request)
        if request.raw_path not in self.objects:
            return web.Response(status=404, body=b"missing")
        return web.Response(body=self.objects[request.raw_path], headers={"ETag": '"o"'})

    async def _chunked(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(BODY), 1000):
            await response.write(BODY[start : start + 1000])
        return response


@pytest_asyncio.fixture(loop_scope="session")
async def origin() -> AsyncIterator[Origin]:
    served = Origin()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{tail:.*}", served.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(origin: Origin) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(origin.endpoint) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        # aiohttp repeats a GET, PUT or DELETE once when its connection breaks, which would hide the fault.
        session._retry_connection = False
        yield session


@dataclass
class Got:
    status: int
    body: bytes
    headers: Any


async def call(http: aiohttp.ClientSession, proxy: FaultProxy, method: str, path: str, **options: Any) -> Got:
    async with http.request(method, proxy.endpoint + path, **options) as response:
        return Got(response.status, await response.read(), response.headers)


async def cut_after(proxy: FaultProxy, path: str) -> tuple[bytes, BaseException | None]:
    """The bytes of a response's body until the connection ended, and how it ended: None for an orderly end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    got, failure = b"", None
    try:
        while piece := await reader.read(65536):
            got += piece
    except OSError as error:
        failure = error
    writer.close()
    return got.partition(b"\r\n\r\n")[2], failure


async def test_without_rules_every_kind_of_message_passes_unchanged(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield BODY

    assert (await call(http, proxy, "GET", "/o")).body == BODY
    assert (await call(http, proxy, "GET", "/chunked")).body == BODY
    head = await call(http, proxy, "HEAD", "/o")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(BODY)))
    assert (await call(http, proxy, "PUT", "/sized", data=BODY)).status == 200
    assert (await call(http, proxy, "PUT", "/streamed", data=pieces())).status == 200
    assert (await call(http, proxy, "PUT", "/expecting", data=BODY, expect100=True)).status == 200
    assert (await call(http, proxy, "PUT", "/empty", data=b"")).status == 200
    assert (await call(http, proxy, "GET", "/a%2Fb//c")).status == 404
    assert origin.objects == {"/o": BODY, "/sized": BODY, "/streamed": BODY * 5, "/expecting": BODY, "/empty": b""}
    assert {headers["Host"] for _, headers, _ in origin.carried_out} == {f"127.0.0.1:{proxy.port}"}


async def test_64_mib_pass_in_both_directions_and_the_log_counts_them(
    origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession
) -> None:
    large = bytes(64 << 20)
    await call(http, proxy, "PUT", "/large", data=io.BytesIO(large))
    assert (await call(http, proxy, "GET", "/large")).body == large
    put, get = proxy.requests(path="/large")
    assert (put.method, put.status, put.request_bytes) == ("PUT", 200, 64 << 20)
    assert (get.method, get.status, get.response_bytes) == ("GET", 200, 64 << 20)
    assert len(proxy.requests(method="PUT")) == 1


async def test_a_connection_carries_many_requests(proxy: FaultProxy) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        for _ in range(20):
            assert (await call(http, proxy, "GET", "/o")).status == 200
        assert len(proxy._connections) == 1


async def test_status_before_the_server_hears_of_the_request(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Status(503, b"<Error/>", (("Retry-After", "1"),)), method="PUT"))
    refused = await call(http, proxy, "PUT", "/k", data=BODY)
    assert (refused.status, refused.body, refused.headers["Retry-After"]) == (503, b"<Error/>", "1")
    assert origin.carried_out == []
    assert (await call(http, proxy, "PUT", "/k", data=BODY)).status == 200
    proxy.assert_fired()


async def test_status_after_the_server_carried_the_request_out(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Status(500), when="after_upstream", method="PUT"))
    assert (await call(http, proxy, "PUT", "/k", data=b"stored")).status == 500
    assert origin.objects["/k"] == b"stored"
    proxy.assert_fired()


async def test_reset_before_and_after_the_server(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Reset(), path="/before"))
    proxy.add(Rule(Reset(), when="after_upstream", path="/after"))
    for path in ("/before", "/after"):
        with pytest.raises(aiohttp.ClientOSError):
            await call(http, proxy, "PUT", path, data=b"x")
    assert set(origin.objects) == {"/o", "/after"}
    assert [seen.status for seen in proxy.log] == [None, None]
    proxy.assert_fired()


async def test_drop_response_ends_the_connection_after_the_server_did_the_work(
    origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession
) -> None:
    proxy.add(Rule(DropResponse(), when="after_upstream", method="PUT"))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call(http, proxy, "PUT", "/k", data=b"stored")
    assert origin.objects["/k"] == b"stored"
    proxy.assert_fired()


async def test_reset_in_a_request_leaves_the_server_without_it(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Reset(), when="mid_request", at=70_000))
    with pytest.raises(aiohttp.ClientOSError):
        await call(http, proxy, "PUT", "/k", data=BODY)
    assert proxy.log[0].request_bytes == 70_000
    assert origin.carried_out == []
    proxy.assert_fired()


@pytest.mark.parametrize("path", ["/o", "/chunked"])
async def test_reset_in_a_response_comes_as_an_error_after_the_bytes_before_it(proxy: FaultProxy, path: str) -> None:
    proxy.add(Rule(Reset(), when="mid_response", at=1234))
    got, failure = await cut_after(proxy, path)
    assert isinstance(failure, ConnectionResetError)
    assert BODY[:1234].startswith(got) or path == "/chunked"
    assert proxy.log[0].response_bytes == 1234
    proxy.assert_fired()


async def test_truncate_ends_the_response_early_and_in_order(proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Truncate(), when="mid_response", at=1234, times=2))
    assert await cut_after(proxy, "/o") == (BODY[:1234], None)
    with pytest.raises(aiohttp.ClientPayloadError):
        await call(http, proxy, "GET", "/o")
    proxy.assert_fired()


@pytest.mark.parametrize("path", ["/o", "/chunked"])
async def test_truncate_fix_length_makes_a_well_formed_short_response(proxy: FaultProxy, http: aiohttp.ClientSession, path: str) -> None:
    proxy.add(Rule(TruncateFixLength(), when="mid_response", at=1234))
    short = await call(http, proxy, "GET", path)
    assert (short.status, short.body, short.headers["Content-Length"]) == (200, BODY[:1234], "1234")
    assert (await call(http, proxy, "GET", path)).body == BODY
    proxy.assert_fired()


async def test_truncate_fix_length_makes_the_server_keep_a_short_object(
    origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession
) -> None:
    proxy.add(Rule(TruncateFixLength(), when="mid_request", at=10))
    assert (await call(http, proxy, "PUT", "/k", data=BODY)).status == 200
    assert origin.objects["/k"] == BODY[:10]
    proxy.assert_fired()


async def test_flip_changes_one_bit_of_one_byte(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Flip(), when="mid_response", at=70_001, method="GET"))
    proxy.add(Rule(Flip(), when="mid_request", at=0, method="PUT"))
    flipped = (await call(http, proxy, "GET", "/o")).body
    assert [at for at in range(len(BODY)) if flipped[at] != BODY[at]] == [70_001]
    assert flipped[70_001] ^ BODY[70_001] == 1
    await call(http, proxy, "PUT", "/k", data=b"A" * 100)
    assert origin.objects["/k"] == b"@" + b"A" * 99
    proxy.assert_fired()


@pytest.mark.parametrize("when", ["before_upstream", "after_upstream", "mid_request", "mid_response"])
async def test_delay_holds_a_request_and_then_lets_it_pass(proxy: FaultProxy, http: aiohttp.ClientSession, when: Any) -> None:
    proxy.add(Rule(Delay(0.2), when=when, path="/o"))
    method, data = ("PUT", BODY) if when == "mid_request" else ("GET", None)
    began = time.monotonic()
    assert (await call(http, proxy, method, "/o", data=data)).status == 200
    assert time.monotonic() - began >= 0.2
    proxy.assert_fired()


async def test_stall_holds_a_response_until_it_is_released(proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    rule = proxy.add(Rule(Stall(), when="mid_response", at=1000))
    with pytest.raises(TimeoutError):
        await call(http, proxy, "GET", "/o", timeout=aiohttp.ClientTimeout(sock_read=0.2))
    rule.nth, rule.times = 2, 1
    waiting = asyncio.create_task(call(http, proxy, "GET", "/o"))
    await eventually(lambda: rule.fired == 2)
    assert not waiting.done()
    rule.release()
    assert (await waiting).body == BODY


async def test_duplicate_request_reaches_the_server_twice(origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(DuplicateRequest(), method="PUT"))
    answered = await call(http, proxy, "PUT", "/k", data=BODY)
    assert answered.headers["X-Count"] == "2"
    assert [body for _, _, body in origin.carried_out] == [BODY, BODY]
    assert len(proxy.log) == 1
    proxy.assert_fired()


async def test_headers_are_stripped_and_rewritten_in_both_directions(
    origin: Origin, proxy: FaultProxy, http: aiohttp.ClientSession
) -> None:
    proxy.add(Rule(StripHeader("If-None-Match")))
    proxy.add(Rule(RewriteHeader("X-Amz-Meta-A", "changed")))
    proxy.add(Rule(StripHeader("ETag"), when="after_upstream"))
    proxy.add(Rule(RewriteHeader("Last-Modified", "never"), when="after_upstream"))
    answered = await call(http, proxy, "GET", "/o", headers={"If-None-Match": "*", "X-Amz-Meta-A": "sent"})
    _, received, _ = origin.carried_out[0]
    assert "If-None-Match" not in received
    assert received["X-Amz-Meta-A"] == "changed"
    assert "ETag" not in answered.headers
    assert answered.headers["Last-Modified"] == "never"
    proxy.assert_fired()


async def test_a_rule_takes_the_nth_match_and_as_many_as_told(proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    rule = proxy.add(Rule(Status(503), method="GET", path=r"/o\?part=\d$", nth=2, times=2))
    statuses = [(await call(http, proxy, "GET", path)).status for path in ("/o?part=1", "/o", "/o?part=2", "/o?part=3", "/o?part=4")]
    assert statuses == [404, 200, 503, 503, 404]
    assert (rule.matched, rule.fired) == (4, 2)


async def test_a_fault_that_did_not_happen_fails_the_test_that_counts_on_it(proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
    proxy.add(Rule(Reset(), when="mid_response", at=len(BODY) + 1))
    assert (await call(http, proxy, "GET", "/o")).body == BODY
    with pytest.raises(AssertionError, match="never happened"):
        proxy.assert_fired()


IMPOSSIBLE = [(Status(500), "mid_response"), (Flip(), "before_upstream"), (DuplicateRequest(), "after_upstream"), (Delay(1), "never")]


@pytest.mark.parametrize(("do", "when"), IMPOSSIBLE)
def test_a_fault_in_a_place_where_it_cannot_happen_is_refused(do: Any, when: Any) -> None:
    with pytest.raises(ValueError, match="cannot happen"):
        Rule(do, when=when)


async def test_a_server_that_is_gone_looks_gone(origin: Origin, http: aiohttp.ClientSession, free_port: int) -> None:
    async with FaultProxy(f"http://127.0.0.1:{free_port}") as proxy:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await call(http, proxy, "GET", "/o")


async def test_closing_the_proxy_ends_stalled_connections(origin: Origin, http: aiohttp.ClientSession) -> None:
    rule = Rule(Stall())
    async with FaultProxy(origin.endpoint, rule) as proxy:
        waiting = asyncio.create_task(call(http, proxy, "GET", "/o"))
        await eventually(lambda: rule.fired == 1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await waiting
