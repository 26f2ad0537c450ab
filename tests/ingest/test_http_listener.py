"""Slow, broken and hostile senders, and the end of a listener, as the webhook has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from replication.errors import SettingsError
from service.http_listener import MAX_CONNECTIONS, own_hosts
from tests.ingest.webhook_rig import EVENT, TOKEN, WebhookRig, logged, request_bytes
from tests.poll import eventually


@pytest.fixture
async def rig(temporal_client: Client) -> AsyncIterator[WebhookRig]:
    made = WebhookRig(temporal_client)
    async with made.running():
        yield made


async def test_headers_that_drip_end_in_a_closed_connection(temporal_client: Client) -> None:
    rig = WebhookRig(temporal_client, options={"idle_s": 0.5})
    async with rig.running():
        reader, writer = await rig.connect()
        writer.write(b"POST /events HTTP/1.1\r\n")
        closed, sent = asyncio.create_task(end_of(reader)), 0

        def drip() -> bool:
            nonlocal sent
            sent += 1
            writer.write(b"X-Drip: 1\r\n")
            return closed.done()

        await eventually(drip, 20, interval_s=0.05)
        assert sent > 2
        assert await closed == b"", "no answer, for there was no request"
        writer.close()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What came before the connection was closed, in order or not."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_body_that_does_not_come_in_time_is_408(temporal_client: Client) -> None:
    rig = WebhookRig(temporal_client, options={"body_s": 0.3})
    async with rig.running():
        answer = await rig.raw(request_bytes(f"Host: {rig.listen}\r\n")[:-5])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert (await rig.post(EVENT)).status == 202


async def test_a_connection_too_many_is_told_so_and_the_others_are_served(rig: WebhookRig) -> None:
    held = [await rig.connect() for _ in range(MAX_CONNECTIONS)]
    assert (await rig.raw(b"")).startswith(b"HTTP/1.1 503 ")
    held[0][1].write(request_bytes(f"Host: {rig.listen}\r\n"))
    assert (await held[0][0].readline()).startswith(b"HTTP/1.1 202 ")
    for _, writer in held:
        writer.close()

    async def is_served_again() -> bool:
        return b" 202 " in await rig.raw(request_bytes(f"Host: {rig.listen}\r\n"))

    await eventually(is_served_again, 10)


@pytest.mark.parametrize(
    "request_line",
    [
        "GARBAGE\r\n\r\n",
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-Secret {TOKEN}\r\n\r\n",
        f"POST /events HTTP/1.1\r\nX: {TOKEN * 1000}\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_refused_and_leaves_nothing_in_the_log(rig: WebhookRig, request_line: str) -> None:
    with logged() as log:
        assert (await rig.raw(request_line.encode())).startswith(b"HTTP/1.0 400 ") or b" 400 " in await rig.raw(request_line.encode())
    assert log.getvalue() == ""
    assert (await rig.post(EVENT)).status == 202


async def test_a_request_under_way_is_finished_before_the_webhook_stops(rig: WebhookRig) -> None:
    request = request_bytes(f"Host: {rig.listen}\r\n", more="Expect: 100-continue\r\n")
    reader, writer = await rig.connect()
    writer.write(request[:-5])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    rig.stop.set()
    await eventually(lambda: refuses_connections(rig), 10)
    writer.write(request[-5:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def refuses_connections(rig: WebhookRig) -> bool:
    return not await rig.is_listening()


async def test_an_address_that_is_taken_is_named_with_its_setting(rig: WebhookRig, temporal_client: Client) -> None:
    second = WebhookRig(temporal_client, listen=rig.listen)
    with pytest.raises(SettingsError) as raised:
        await second.webhook.run(asyncio.Event())
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith(f"ingest.webhook.listen: cannot listen on {rig.listen}: ")


def test_a_listener_that_the_network_reaches_cannot_know_its_names() -> None:
    assert own_hosts("0.0.0.0:80") is None
    assert own_hosts("drayage.example:80") is None
    assert own_hosts("127.0.0.2:81") == frozenset({"127.0.0.2:81", "localhost:81", "127.0.0.1:81", "[::1]:81"})
    assert "[::1]" in (own_hosts("[::1]:80") or ())
