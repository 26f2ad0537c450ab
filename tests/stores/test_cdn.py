"""Reads of S3 objects through a content delivery network: what comes from the edge, what from the store, what is refused."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from embedded.moto import MotoServer
from embedded.s3admin import s3_client
from replication.errors import CredentialsRefused, ObjectError, PermissionRefused, Refused, ServerFault, SettingsError, Throttled
from replication.models import ANY, Attributes, ObjectInfo
from replication.store_settings import S3Settings
from stores import cdn
from stores.body import Body
from stores.registry import build_store
from stores.s3 import S3Store
from stores.signing import Credentials
from tests.edge import Edge, pem, signing_key, until
from tests.proxy import FaultProxy

MIB = 1 << 20
KEYS = ["plain", "a b+c", "ä/日本.bin", "what?#%2F&=", "a//b", "dir/", "../up/./x", "~(')!*"]
PAIR = "K2JCJMDEHXQW5F"


@dataclass
class Bench:
    """A bucket at moto, an edge in front of it, and a proxy that sees what the store itself is asked for."""

    server: MotoServer
    bucket: str
    edge: Edge
    proxy: FaultProxy
    writer: S3Store

    def store(self, **options: Any) -> S3Store:
        reads = cdn.Edge(self.bucket, options.pop("prefix", ""), self.edge.url, **options)
        keys = Credentials(self.server.access_key, self.server.secret_key)
        return S3Store("s3", region=self.server.region, endpoint=self.proxy.endpoint, credentials=lambda: keys, edges=[reads])

    async def put(self, key: str, data: bytes, **attributes: Any) -> ObjectInfo:
        return await self.writer.put(self.bucket, key, Body.of(data), Attributes(**attributes), ANY)

    async def get(self, store: S3Store, info: ObjectInfo, offset: int = 0, length: int | None = None) -> bytes:
        length = info.size_bytes - offset if length is None else length
        async with store.read(self.bucket, info.key, pin=info.version, offset=offset, length=length) as chunks:
            return b"".join([bytes(chunk) async for chunk in chunks])

    def reads_of_the_store(self) -> int:
        """GETs of objects: neither listings nor subresources."""
        return sum("?" not in request.target for request in self.proxy.requests(method="GET"))


@pytest.fixture(scope="module")
def origin(moto_s3: MotoServer) -> Iterator[Any]:
    with closing(s3_client(moto_s3.endpoint, moto_s3.access_key, moto_s3.secret_key, moto_s3.region)) as client:
        yield client


@pytest.fixture
async def bench(moto_s3: MotoServer, origin: Any) -> AsyncIterator[Bench]:
    name = f"cdn-{uuid.uuid4().hex}"
    await asyncio.to_thread(origin.create_bucket, Bucket=name)
    keys = Credentials(moto_s3.access_key, moto_s3.secret_key)
    writer = S3Store("s3", region=moto_s3.region, endpoint=moto_s3.endpoint, credentials=lambda: keys)
    async with Edge(origin, name) as edge, FaultProxy(moto_s3.endpoint) as proxy:
        yield Bench(moto_s3, name, edge, proxy, writer)
    await writer.close()


@pytest.fixture
async def opened(bench: Bench) -> AsyncIterator[Callable[..., S3Store]]:
    made: list[S3Store] = []

    def make(**options: Any) -> S3Store:
        made.append(bench.store(**options))
        return made[-1]

    yield make
    for store in made:
        await store.close()


Opened = Callable[..., S3Store]


@pytest.mark.parametrize("key", KEYS)
async def test_bytes_come_from_the_edge_for_every_key(bench: Bench, opened: Opened, key: str) -> None:
    info, store = await bench.put(key, b"0123456789"), opened()
    assert await bench.get(store, info) == b"0123456789"
    assert await bench.get(store, info, 3, 4) == b"3456"
    assert bench.edge.served == {key: 2}
    assert bench.reads_of_the_store() == 0


async def test_a_large_object_streams_from_the_edge(bench: Bench, opened: Opened) -> None:
    data = uuid.uuid4().bytes * (3 * MIB // 16)
    info = await bench.put("large", data)
    assert await bench.get(opened(), info) == data
    assert bench.reads_of_the_store() == 0


async def test_what_a_small_object_is_comes_from_the_store_and_its_bytes_from_the_edge(bench: Bench, opened: Opened) -> None:
    shown = await bench.put("small", b"small", content_type="text/x", metadata={"a": "ü"}, tags={"t": "1"})
    info, data = await opened().fetch(bench.bucket, "small", pin=shown.version)
    assert (data, info.attributes.content_type, info.attributes.metadata, info.attributes.tags) == (
        b"small",
        "text/x",
        {"a": "ü"},
        {"t": "1"},
    )
    assert bench.edge.served == {"small": 1}
    assert bench.reads_of_the_store() == 0


async def test_only_keys_below_the_prefix_are_read_there(bench: Bench, opened: Opened) -> None:
    inside, outside = await bench.put("public/a", b"in"), await bench.put("private/a", b"out")
    store = opened(prefix="public/")
    assert (await bench.get(store, inside), await bench.get(store, outside)) == (b"in", b"out")
    assert bench.edge.served == {"public/a": 1}
    assert bench.reads_of_the_store() == 1


async def test_text_of_the_encoded_key_is_replaced(bench: Bench, opened: Opened) -> None:
    info = await bench.put("data/x/data/y+z", b"1")
    store = opened(rewrite={"%2B": "+", "data/": "data/"})
    assert await bench.get(store, info) == b"1"
    assert bench.edge.served == {"data/x/data/y+z": 1}


# --- what the edge does not have ---------------------------------------------------------------------------------------


async def test_an_old_version_at_the_edge_is_not_taken_for_the_new_one(
    bench: Bench, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    old = await bench.put("k", b"old bytes")
    assert await bench.get(store, old) == b"old bytes"
    new = await bench.put("k", b"new bytes")
    with caplog.at_level(logging.WARNING, logger="stores.cdn"):
        assert await bench.get(store, new) == b"new bytes"
        assert await bench.get(store, new, 4, 5) == b"bytes"
    assert bench.edge.served == {"k": 3}
    assert bench.reads_of_the_store() == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'k'" in line
    assert line.endswith("so far 1 reads went to the store itself")


async def test_a_compressed_copy_at_the_edge_is_not_taken(bench: Bench, opened: Opened) -> None:
    info = await bench.put("k", b"x" * 10_000)
    bench.edge.compress = True
    store = opened()
    assert await bench.get(store, info) == b"x" * 10_000
    assert await bench.get(store, info, 5, 10) == b"x" * 10
    assert bench.edge.served == {"k": 2}
    assert bench.reads_of_the_store() == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=404),
        lambda: web.Response(status=410),
        lambda: web.Response(status=416),
        lambda: web.Response(body=b"good"),  # of which version?
        lambda: web.Response(body=b"wrong", headers={"ETag": '"00000000000000000000000000000000"'}),
        lambda: web.Response(status=204),
        lambda: web.Response(status=206, body=b"good", headers={"Content-Range": "bytes 0-3/4"}),
    ],
    ids=["absent", "gone", "smaller", "no-etag", "another", "no-content", "a-range-nobody-asked-for"],
)
async def test_what_an_edge_cannot_give_comes_from_the_store(bench: Bench, opened: Opened, answer: Callable[[], web.Response]) -> None:
    info = await bench.put("k", b"good")
    bench.edge.answers.append(answer())
    assert await bench.get(opened(), info) == b"good"
    assert (bench.edge.answers, bench.reads_of_the_store()) == ([], 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: web.Response(status=403), PermissionRefused),
        (lambda: web.Response(status=503, headers={"Retry-After": "7"}), Throttled),
        (lambda: web.Response(status=502), ServerFault),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), Refused),
    ],
    ids=["403", "503", "502", "302"],
)
async def test_a_refusal_is_told_and_costs_no_read_of_the_store(
    bench: Bench, opened: Opened, answer: Callable[[], web.Response], error: type[ObjectError]
) -> None:
    info = await bench.put("k", b"good")
    bench.edge.answers.append(answer())
    with pytest.raises(error, match=r"CDN 127\.0\.0\.1") as refused:
        await bench.get(opened(), info)
    assert type(refused.value) is error
    assert bench.reads_of_the_store() == 0
    if error is Throttled:
        assert refused.value.retry_after_s == 7


async def test_a_look_at_the_bucket_finds_an_edge_that_refuses(bench: Bench, opened: Opened) -> None:
    store = opened()
    bench.edge.answers.append(web.Response(status=403))
    assert await store.probe(bench.bucket, writable=False)  # an empty bucket asks for nothing
    assert len(bench.edge.answers) == 1
    await bench.put("empty", b"")
    await bench.put("k", b"good")
    with pytest.raises(PermissionRefused, match="CDN"):
        await store.probe(bench.bucket, writable=False)
    assert bench.edge.answers == []
    assert await store.probe(bench.bucket, writable=False)
    assert bench.edge.served == {"k": 1}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(status=404), "does not have 'k', which the store has (404)"),
        (lambda: web.Response(status=206, body=b"g"), "tells no ETag: nobody could know which version it has"),
    ],
    ids=["a-wrong-url", "no-etag"],
)
async def test_a_look_at_the_bucket_finds_an_edge_that_could_never_be_read(
    bench: Bench, opened: Opened, answer: Callable[[], web.Response], told: str
) -> None:
    await bench.put("k", b"good")
    bench.edge.answers.append(answer())
    with pytest.raises(Refused) as refused:
        await opened().probe(bench.bucket, writable=False)
    assert str(refused.value) == f"{bench.edge.url} {told}"


async def test_a_look_at_the_bucket_lets_an_old_version_at_the_edge_pass(bench: Bench, opened: Opened) -> None:
    store = opened()
    old = await bench.put("k", b"x")
    assert await bench.get(store, old) == b"x"
    await bench.put("k", b"")
    await bench.put("l", b"y")
    bench.edge.answers.append(web.Response(status=416))
    assert await store.probe(bench.bucket, writable=False)


# --- signed URLs -------------------------------------------------------------------------------------------------------


def signed(bench: Bench, text: Callable[[], str], clock: Callable[[], float]) -> cdn.SignedUrls:
    return cdn.SignedUrls(bench.edge.url, PAIR, text, lifetime_s=1_000, clock=clock)


@pytest.mark.parametrize("key", KEYS)
async def test_one_signature_opens_every_key(bench: Bench, opened: Opened, key: str) -> None:
    private = signing_key()
    bench.edge.keys[PAIR] = private
    info = await bench.put(key, b"data")
    store = opened(signed=cdn.SignedUrls(bench.edge.url, PAIR, lambda: pem(private), lifetime_s=60))
    assert await bench.get(store, info) == b"data"
    assert await bench.get(store, info, 1, 2) == b"at"
    with pytest.raises(PermissionRefused):
        await bench.get(opened(), info)
    assert bench.reads_of_the_store() == 0


async def test_a_signature_is_made_anew_long_before_it_ends(bench: Bench, opened: Opened) -> None:
    private, now = signing_key(), [5_000.0]
    bench.edge.keys[PAIR], bench.edge.clock = private, lambda: now[0]
    urls = signed(bench, lambda: pem(private), lambda: now[0])
    info, store = await bench.put("k", b"data"), opened(signed=urls)
    for now[0], end in ((5_000.0, 6_000), (5_499.0, 6_000), (5_500.0, 6_500), (5_999.0, 6_500), (8_000.0, 9_000)):
        assert await bench.get(store, info) == b"data"
        assert until(f"/?{urls.query()}") == end


async def test_a_key_that_was_replaced_is_taken_after_a_refusal(bench: Bench, opened: Opened) -> None:
    old, new = signing_key("old"), signing_key("new")
    current = [old]
    bench.edge.keys[PAIR] = old
    info, store = await bench.put("k", b"data"), opened(signed=signed(bench, lambda: pem(current[0]), lambda: 5.0))
    bench.edge.clock = lambda: 5.0
    assert await bench.get(store, info) == b"data"
    bench.edge.keys[PAIR] = new
    with pytest.raises(PermissionRefused):
        await bench.get(store, info)
    current[0] = new
    with pytest.raises(ServerFault):  # tried again at once, by whoever asked
        await bench.get(store, info)
    assert await bench.get(store, info) == b"data"


@pytest.mark.parametrize("text", ["no key", pem(ec.generate_private_key(ec.SECP256R1()))], ids=["no-pem", "no-rsa"])
async def test_a_key_that_cannot_sign_is_refused(bench: Bench, opened: Opened, text: str) -> None:
    info = await bench.put("k", b"data")
    with pytest.raises(CredentialsRefused, match="the private key of the CDN") as refused:
        await bench.get(opened(signed=signed(bench, lambda: text, lambda: 5.0)), info)
    assert text not in str(refused.value)


async def test_settings_name_the_edge_and_its_key(bench: Bench, tmp_path: Any) -> None:
    private = signing_key()
    bench.edge.keys[PAIR] = private
    file = tmp_path / "cdn.pem"
    settings = S3Settings.model_validate(
        {
            "type": "s3",
            "endpoint": bench.proxy.endpoint,
            "access_key_id": "env:ID",
            "secret_access_key": "env:SECRET",
            "cdn": [{"bucket": bench.bucket, "url": bench.edge.url, "key_pair_id": PAIR, "private_key": f"file:{file}"}],
        }
    )
    environ = {"ID": bench.server.access_key, "SECRET": bench.server.secret_key}
    with pytest.raises(SettingsError, match=r"stores\.aws\.cdn\[0\]\.private_key: cannot read"):
        build_store("aws", settings, environ)
    file.write_text(pem(private))
    store = build_store("aws", settings, environ)
    assert isinstance(store, S3Store)
    info = await bench.put("k", b"data")
    file.unlink()  # what was read once serves until it is refused
    assert await bench.get(store, info) == b"data"
    assert bench.reads_of_the_store() == 0
    await store.close()
