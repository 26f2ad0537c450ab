"""Events that stores and relays post: from a change in a bucket to the replica, and every request that is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.ports import LOOPBACK, free_port
from embedded.seaweedfs import SeaweedFS
from embedded.temporal import TemporalServer
from ingest.dispatch import Dispatcher, Started, Target
from tests.conftest import running
from tests.e2e.sides import S3Side
from tests.ingest.test_events import TEST_EVENT, bridged, s3_body, s3_record, sns
from tests.ingest.test_seaweed_events import RECORDED
from tests.ingest.webhook_rig import BEARER, EVENT, TOKEN, Recorder, WebhookRig, logged, request_bytes, route
from tests.poll import eventually

ODD = "dir/red flower+50%.é"
MINIO = json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "photos/k", **json.loads(EVENT)})
SUBSCRIPTION = {
    "Type": "SubscriptionConfirmation",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:changes",
    "Token": "2336412f37fb687f5d51e6e2425ba1f25",
    "Message": "You have chosen to subscribe …",
}


@pytest.fixture(scope="module")
def listen() -> str:
    return f"{LOOPBACK}:{free_port()}"


@pytest.fixture(scope="module")
def notifying(listen: str) -> Iterator[SeaweedFS]:
    """A SeaweedFS whose filer posts to `listen`; nobody need be there."""
    with running(SeaweedFS(notify=(f"http://{listen}/events", TOKEN))) as server:
        yield server


# --- from a bucket to its replica ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioning", [False, True], ids=["plain", "versioned"])
async def test_changes_in_a_seaweedfs_bucket_reach_the_replica(
    temporal_client: Client, notifying: SeaweedFS, listen: str, versioning: bool
) -> None:
    source, replica = S3Side("source", notifying), S3Side("replica", notifying)
    if versioning:
        source.client.put_bucket_versioning(Bucket=source.bucket, VersioningConfiguration={"Status": "Enabled"})
    rig = WebhookRig(
        temporal_client,
        {"source": source.settings(), "replica": replica.settings()},
        [route("source", source.bucket, "replica", replica.bucket, deletes="mirror")],
        {**source.environ(), **replica.environ()},
        listen=listen,
    )
    async with rig.worker(), rig.running():
        for key, data in [(ODD, b"one"), ("gone", b"soon"), ("big/multipart", b"m" * (9 << 20)), (ODD, b"two"), ("empty", b"")]:
            await asyncio.to_thread(source.put, key, data)
        await eventually(lambda: seen(replica, "gone"), 30, interval_s=0.2)
        source.client.delete_object(Bucket=source.bucket, Key="gone")
        await eventually(lambda: contents(replica, [ODD, "big/multipart", "empty", "gone"]) == [3, 9 << 20, 0, None], 30, interval_s=0.2)
    assert replica.client.get_object(Bucket=replica.bucket, Key=ODD)["Body"].read() == b"two"
    assert set(rig.webhook.counts) == {202}, "every event of the filer was read"
    source.close()
    replica.close()


def seen(side: S3Side, key: str) -> int | None:
    found = side.see(key)
    return found.size_bytes if found else None


def contents(side: S3Side, keys: Iterable[str]) -> list[int | None]:
    return [seen(side, key) for key in keys]


@pytest.fixture
async def rig(temporal_client: Client) -> AsyncIterator[WebhookRig]:
    made = WebhookRig(temporal_client)
    async with made.running():
        yield made


@pytest.mark.parametrize(
    ("body", "started", "ignored", "quarantined"),
    [
        (EVENT, ["k"], 0, 0),
        (MINIO, ["k"], 0, 0),
        (sns(EVENT), ["k"], 0, 0),
        (bridged(ODD), [ODD], 0, 0),
        (RECORDED["put odd key"], ["dir/sub/red flower+50%.é"], 0, 0),
        (RECORDED["rename"], ["renamed", "big/multi"], 0, 0),
        (RECORDED["version put"], [], 1, 0),
        (RECORDED["owner"], [], 1, 0),
        (json.dumps({"source_replica": "aws", "dest_replica": "disk", "key": "on+demand"}), ["on+demand"], 0, 0),
        (json.dumps({"source_replica": "aws", "dest_replica": "aws", "key": "k"}), [], 1, 0),
        (json.dumps(TEST_EVENT), [], 1, 0),
        (s3_body(), [], 1, 0),
        (s3_body(s3_record("a"), s3_record("a"), s3_record("b"), s3_record("x.tmp")), ["a", "b"], 1, 0),
        (s3_body(s3_record("a"), s3_record("%FF"), s3_record("b", bucket="elsewhere")), ["a"], 0, 2),
        (s3_body(s3_record(bucket="elsewhere")), [], 0, 1),
    ],
)
async def test_a_body_is_acknowledged_with_what_it_led_to(
    rig: WebhookRig, body: str, started: list[str], ignored: int, quarantined: int
) -> None:
    answer = await rig.post(body)
    assert [await rig.started(key) for key in started] == [True] * len(started), "a start is accepted before the answer"
    assert (answer.status, answer.body) == (202, {"started": len(started), "ignored": ignored, "quarantined": quarantined})
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/events"])
async def test_both_paths_take_events(rig: WebhookRig, path: str) -> None:
    assert (await rig.post(EVENT, path)).body["started"] == 1


async def test_a_subscription_is_left_to_a_person_and_its_address_is_not_visited(rig: WebhookRig) -> None:
    async with Recorder() as decoy:
        with logged() as log:
            answer = await rig.post({**SUBSCRIPTION, "SubscribeURL": f"{decoy.endpoint}/?Action=ConfirmSubscription"})
    assert (answer.status, answer.body["ignored"], decoy.asked) == (202, 1, [])
    line = json.loads(log.getvalue())
    assert line["level"] == "warning"
    assert f"--topic-arn {SUBSCRIPTION['TopicArn']} --token {SUBSCRIPTION['Token']}" in line["message"]
    assert decoy.endpoint not in log.getvalue()


@pytest.mark.parametrize("part", ["TopicArn", "Token"])
async def test_a_subscription_that_would_put_a_command_into_the_log_is_not_quoted(rig: WebhookRig, part: str) -> None:
    with logged() as log:
        assert (await rig.post({**SUBSCRIPTION, part: f"{SUBSCRIPTION[part]}; rm -rf /"})).status == 202
    assert "rm -rf" not in log.getvalue()
    assert json.loads(log.getvalue())["reason"] == "subscription-confirmation"


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not-json"),
        ("junk", "not-json"),
        (b"\xff\xfe", "not-json"),
        ("[]", "unknown-envelope"),
        ("{}", "unknown-envelope"),
        ("[" * 100_000, "too-deep"),
        (s3_body(s3_record("%FF")), "bad-key-encoding"),
        (s3_body(s3_record("k" * 1025)), "bad-key"),
        ('{"event_type": "create", "key": "/buckets/photos/k", "message": {}}', "bad-record"),
    ],
)
async def test_a_body_of_which_nothing_can_be_read_is_400_with_its_reason(rig: WebhookRig, body: Any, reason: str) -> None:
    answer = await rig.post(body)
    assert (answer.status, answer.body["reasons"]) == (400, [reason])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        f"Digest {TOKEN}",
        "Bearer \xe9",
        "Basic !",
        basic("u", "x"),
    ],
)
async def test_without_the_token_nothing_is_started(rig: WebhookRig, credentials: str | None) -> None:
    with logged() as log:
        answer = await rig.post(s3_body(s3_record("denied")), headers={} if credentials is None else {"Authorization": credentials})
    assert (answer.status, answer.headers.getall("WWW-Authenticate")) == (401, ["Bearer", 'Basic realm="drayage"'])
    assert not await rig.started("denied")
    assert log.getvalue() == ""


@pytest.mark.parametrize("credentials", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("any", TOKEN), basic("", TOKEN)])
async def test_the_token_is_taken_as_bearer_and_as_password(rig: WebhookRig, credentials: str) -> None:
    assert (await rig.post(EVENT, headers={"Authorization": credentials})).status == 202


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost"])
async def test_a_web_page_is_refused_whatever_it_knows(rig: WebhookRig, origin: str) -> None:
    assert (await rig.post(EVENT, headers={**BEARER, "Origin": origin})).status == 403
    assert (await rig.post(None, method="OPTIONS", headers={"Origin": origin})).status == 403


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "127.0.0.1:{port}\r\nHost: evil"])
async def test_a_host_that_is_not_the_listeners_is_refused_on_loopback(rig: WebhookRig, host: str) -> None:
    port = rig.listen.rpartition(":")[2]
    line = f"Host: {host.format(port=port)}\r\n" if host else ""
    status = (await rig.raw(request_bytes(line))).split()[1]
    assert status in (b"403", b"400"), "aiohttp itself refuses two hosts"
    assert b" 202 " in await rig.raw(request_bytes(f"Host: LocalHost:{port}\r\n"))


@pytest.mark.parametrize("path", ["/event", "/events/", "//events", "/events/../x", "/%2e%2e/etc/passwd", "/admin"])
async def test_other_paths_are_404(rig: WebhookRig, path: str) -> None:
    request = request_bytes(f"Host: {rig.listen}\r\n").replace(b"/events", path.encode(), 1)
    assert b" 404 " in (await rig.raw(request)).split(b"\r\n")[0] + b" "


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(rig: WebhookRig, method: str) -> None:
    answer = await rig.post(None, method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def chunked(size: int) -> AsyncIterator[bytes]:
    for _ in range(size >> 16):
        yield b" " * (1 << 16)


async def test_a_body_that_is_too_large_is_413_with_a_length_and_without(rig: WebhookRig) -> None:
    for body in (b" " * (10 << 20), chunked(10 << 20)):
        assert (await rig.post(body)).status == 413
    edge = EVENT + " " * (rig.max_body - len(EVENT))
    assert (await rig.post(edge)).body["reasons"] == ["too-large"], "read, and more than a sender of S3 events sends"
    assert (await rig.post(edge + " ")).status == 413
    filer = RECORDED["put"] + " " * (rig.max_body - len(RECORDED["put"]))
    assert (await rig.post(filer)).status == 202


async def test_a_large_body_of_a_stranger_is_not_read(rig: WebhookRig) -> None:
    assert (await rig.post(chunked(10 << 20), headers={})).status == 401


async def test_a_compressed_body_is_refused(rig: WebhookRig) -> None:
    assert (await rig.post(b"x", headers={**BEARER, "Content-Encoding": "gzip"})).status == 415


async def test_a_flood_is_429_with_the_time_to_wait_and_strangers_do_not_use_it_up(temporal_client: Client) -> None:
    now = 1000.0
    rig = WebhookRig(temporal_client, rate=20, options={"clock": lambda: now})
    async with rig.running():
        strangers = await asyncio.gather(*(rig.post(EVENT, headers={}) for _ in range(50)))
        answers = await asyncio.gather(*(rig.post(EVENT) for _ in range(100)))
        assert {answer.status for answer in strangers} == {401}
        assert Counter(answer.status for answer in answers) == {202: 20, 429: 80}
        assert {answer.headers["Retry-After"] for answer in answers if answer.status == 429} == {"1"}
        now += 0.1
        assert [(await rig.post(EVENT)).status for _ in range(3)] == [202, 202, 429]


# --- Temporal is away ----------------------------------------------------------------------------------------------------


async def test_while_temporal_is_away_the_sender_repeats_and_afterwards_it_is_started() -> None:
    with running(TemporalServer(headless=True)) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        rig = WebhookRig(client, options={"hold_s": 0.2})
        async with rig.running():
            assert (await rig.post(EVENT)).status == 202
            await asyncio.to_thread(server.kill)
            for _ in range(2):
                away = await rig.post(s3_body(s3_record("late")))
                assert (away.status, away.headers["Retry-After"]) == (503, "5")
                assert not rig.dispatcher.available
            rig.webhook.hold_s = 30.0
            held = asyncio.create_task(rig.post(s3_body(s3_record("held"))))
            await asyncio.to_thread(server.restart)
            assert (await held).status == 202, "a request that comes in a short outage is answered after it"
            assert (await rig.post(s3_body(s3_record("late")))).status == 202
            assert [await rig.started(key) for key in ("held", "late")] == [True, True]


class RefusesOne(Dispatcher):
    """Temporal refuses whole queues only, on demand; that it refuses one object of two is acted here."""

    async def start(self, targets: Iterable[Target]) -> Started:
        wanted = set(targets)
        await super().start(target for target in wanted if target.key != "refused")
        return Started(refused=frozenset(target for target in wanted if target.key == "refused"))


async def test_a_batch_that_is_refused_in_part_is_repeated_as_a_whole(temporal_client: Client) -> None:
    rig = WebhookRig(temporal_client, options={"dispatcher": RefusesOne(temporal_client, "q-refuses")})
    async with rig.running():
        answer = await rig.post(s3_body(s3_record("taken"), s3_record("refused")))
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert "1 of 2" in answer.body["error"]
        assert [await rig.started(key) for key in ("taken", "refused")] == [True, False]


async def test_what_temporal_refuses_altogether_is_503(temporal_client: Client) -> None:
    rig = WebhookRig(temporal_client, options={"dispatcher": Dispatcher(temporal_client, "q" * 2000, start_timeout=timedelta(seconds=5))})
    async with rig.running():
        assert (await rig.post(EVENT)).status == 503


async def test_a_forged_bucket_starts_nothing_and_asks_no_store(temporal_client: Client) -> None:
    async with Recorder() as store, Recorder() as elsewhere:
        keys = {"access_key_id": "env:KEY", "secret_access_key": "env:KEY"}
        stores = {"aws": {"type": "s3", "endpoint": store.endpoint, **keys}, "disk": {"type": "file", "root": "/stores"}}
        rig = WebhookRig(temporal_client, stores, environ={"KEY": "k"})
        forged = s3_record("forged", bucket="someone-elses")
        forged["awsRegion"] = f"x.{elsewhere.endpoint}"
        forged["s3"]["bucket"]["arn"] = f"{elsewhere.endpoint}/steal"
        filer = RECORDED["put"].replace("/buckets/photos", "/buckets/someone-elses")
        async with rig.worker(), rig.running():
            assert (await rig.post(s3_body(forged))).body == {"started": 0, "ignored": 0, "quarantined": 1}
            assert (await rig.post(filer)).body == {"started": 0, "ignored": 1, "quarantined": 0}
            assert (await rig.post(s3_body(s3_record("genuine")))).body["started"] == 1
            await eventually(lambda: store.asked, 20)
            ids = await eventually(lambda: workflow_ids(rig), 20, interval_s=0.2)
        assert len(ids) == 1
        assert all("/photos" in line for line in store.asked)
        assert elsewhere.asked == []


async def workflow_ids(rig: WebhookRig) -> list[str]:
    return [found.id async for found in rig.client.list_workflows(f'TaskQueue = "{rig.queue}"')]


async def test_keys_with_control_characters_stay_one_line_of_json_each(rig: WebhookRig) -> None:
    keys = ["a\nb", "\x1b[2Jgone", '{"level": "info"}', "%s%n{0}", "<img src=x onerror=alert(1)>", "\u2028\x7f"]
    with logged() as log:
        for key in keys:
            body = json.dumps({"source": "aws.s3", "detail": {"bucket": {"name": "no\nbucket"}, "object": {"key": key}}})
            assert (await rig.post(body)).body["quarantined"] == 1
    lines = log.getvalue().splitlines()
    assert [json.loads(line)["key"] for line in lines] == keys
    assert log.getvalue().isprintable() or log.getvalue().replace("\n", "").isprintable()
    assert TOKEN not in log.getvalue()


def test_the_token_is_in_no_representation(temporal_client: Client) -> None:
    assert TOKEN not in repr(WebhookRig(temporal_client).webhook)
