"""What the GCS store does beyond the contract of all stores: temporaries, compose trees, generations, rewrites.

Most runs against fake-gcs-server. What it cannot be made to do (verify checksums, refuse a compose, throttle, stop a
rewrite half-way, answer wrongly) is scripted on a small HTTP server of this file.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from embedded.fake_gcs import FakeGcs
from replication.errors import (
    CredentialsRefused,
    EndpointUnreachable,
    IntegrityMismatch,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    PermissionRefused,
    PreconditionFailed,
    ServerFault,
    SourceChanged,
    Throttled,
    UploadLost,
)
from replication.keys import PROBE_PREFIX
from replication.limits import MIB
from replication.models import ABSENT, ANY, Attributes, Condition, ObjectInfo, Part, Version
from stores import gcs_probe
from stores.body import Body
from stores.checksum import crc32c, encode_crc
from stores.gcs import GATHER_MAX, GcsStore
from stores.gcs_api import GcsApi
from stores.gcs_resources import part_name, upload_prefix
from stores.http import HttpPlane
from tests.poll import within

LARGE = random.Random(1).randbytes(GATHER_MAX + 100_000)


@dataclass(frozen=True)
class Fake:
    """A store on fake-gcs-server, a bucket of its own, and the API below the store to look at what it hides."""

    store: GcsStore
    api: GcsApi
    bucket: str

    async def put(self, key: str, data: bytes, attributes: Attributes | None = None) -> ObjectInfo:
        return await self.store.put(self.bucket, key, Body.of(data), attributes or Attributes(), ANY)

    async def get(self, info: ObjectInfo) -> bytes:
        async with self.store.read(self.bucket, info.key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def now(self, key: str) -> bytes:
        return await self.get(await self.store.head(self.bucket, key))

    async def everything(self) -> dict[str, str]:
        """Name -> generation of all objects, the temporary ones included."""
        page, token = await self.api.list_page(self.bucket, "")
        assert token is None
        return {resource["name"]: resource["generation"] for resource in page}

    async def upload(self, key: str, contents: list[bytes]) -> tuple[str, list[Part]]:
        upload = await self.store.begin_upload(self.bucket, key, Attributes())
        offsets = [sum(map(len, contents[:n])) for n in range(len(contents))]
        sends = (
            self.store.put_part(self.bucket, key, upload, n + 1, offset, Body.of(data))
            for n, (offset, data) in enumerate(zip(offsets, contents, strict=True))
        )
        return upload, list(await asyncio.gather(*sends))


@pytest.fixture
async def fake(fake_gcs: FakeGcs) -> AsyncIterator[Fake]:
    bucket = f"gcs-{uuid.uuid4().hex[:12]}"
    fake_gcs.create_bucket(bucket)
    store = GcsStore("gcs", endpoint=fake_gcs.endpoint, anonymous=True)
    plane = HttpPlane()
    yield Fake(store, GcsApi(fake_gcs.endpoint, plane, None, lambda: uuid.uuid4().hex), bucket)
    await store.close()
    await plane.close()


def streamed(data: bytes, *, known: int | None = None) -> Body:
    """A body whose bytes come in pieces, so that its CRC32C is unknown unless it is given."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1 << 18):
            yield data[start : start + (1 << 18)]

    return Body(chunks(), len(data), known_crc32c=known)


# --- large bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [None, crc32c(LARGE)])
async def test_a_large_streamed_body_is_published_whole_with_its_attributes(fake: Fake, known: int | None) -> None:
    wanted = Attributes(
        content_type="text/plain", cache_control="no-store", metadata={"Key": "välue"}, expires="Thu, 01 Jan 2026 00:00:00 GMT"
    )
    info = await fake.store.put(fake.bucket, "large", streamed(LARGE, known=known), wanted, ABSENT)
    head = await fake.store.head(fake.bucket, "large")
    assert head.version.token == info.version.token
    assert head.checksums.crc32c == crc32c(LARGE)
    assert head.attributes.expires == wanted.expires
    assert (head.attributes.content_type, head.attributes.cache_control, head.attributes.metadata) == (
        "text/plain",
        "no-store",
        {"Key": "välue"},
    )
    assert await fake.now("large") == LARGE
    assert list(await fake.everything()) == ["large"]


async def test_a_large_body_that_loses_its_condition_leaves_no_temporary(fake: Fake) -> None:
    there = await fake.put("large", b"there")
    with pytest.raises(PreconditionFailed):
        await fake.store.put(fake.bucket, "large", streamed(LARGE), Attributes(), ABSENT)
    assert await fake.everything() == {"large": there.version.id}


async def test_a_large_body_with_another_checksum_than_announced_never_becomes_visible(fake: Fake) -> None:
    there = await fake.put("large", b"there")
    with pytest.raises(IntegrityMismatch):
        await fake.store.put(fake.bucket, "large", streamed(LARGE, known=crc32c(LARGE) ^ 1), Attributes(), ANY)
    assert await fake.everything() == {"large": there.version.id}


async def test_a_cancelled_large_put_leaves_nothing(fake: Fake) -> None:
    started, never = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield LARGE[:MIB]
        yield LARGE[:1000]
        started.set()
        await never.wait()

    put = asyncio.create_task(fake.store.put(fake.bucket, "k", Body(chunks(), 2 * MIB), Attributes(), ANY))
    await within(started.wait(), 20)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert await fake.everything() == {}


async def test_a_large_body_for_another_storage_class_is_rewritten_into_it(fake: Fake) -> None:
    info = await fake.store.put(fake.bucket, "cold", streamed(LARGE), Attributes(content_type="a/b", storage_class="NEARLINE"), ABSENT)
    assert (info.checksums.crc32c, info.attributes.content_type) == (crc32c(LARGE), "a/b")
    assert list(await fake.everything()) == ["cold"]


async def test_a_range_of_a_gzip_object_is_a_range_of_the_stored_bytes(fake: Fake) -> None:
    data = gzip.compress(b"hello world " * 1000)
    info = await fake.put("page", data, Attributes(content_encoding="gzip", content_type="text/plain"))
    async with fake.store.read(fake.bucket, "page", pin=info.version, offset=3, length=20) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data[3:23]


# --- compose trees -----------------------------------------------------------------------------------------------------

CONTENTS = [f"part {n};".encode() for n in range(70)]
WHOLE = b"".join(CONTENTS)


async def complete(fake: Fake, upload: str, parts: list[Part], condition: Condition = ABSENT, crc: int = crc32c(WHOLE)) -> ObjectInfo:
    return await fake.store.complete_upload(fake.bucket, "joined", upload, parts, Attributes(metadata={"a": "b"}), condition, crc32c=crc)


async def test_more_parts_than_one_compose_takes_become_one_object_in_order(fake: Fake) -> None:
    upload, parts = await fake.upload("joined", CONTENTS)
    info = await complete(fake, upload, parts[::-1])
    assert info.checksums.crc32c == crc32c(WHOLE)
    assert info.attributes.metadata == {"a": "b"}
    assert await fake.now("joined") == WHOLE
    assert list(await fake.everything()) == ["joined"]


async def test_completing_again_after_a_failure_uses_the_intermediates_that_are_right(fake: Fake) -> None:
    there = await fake.put("joined", b"there")
    upload, parts = await fake.upload("joined", CONTENTS)
    with pytest.raises(PreconditionFailed):
        await complete(fake, upload, parts)
    before = await fake.everything()
    wrong = f"{upload_prefix(upload)}c0-000001"
    assert wrong in before
    await fake.api.insert(fake.bucket, {"name": wrong}, b"other bytes", 11, if_generation=None)
    with pytest.raises(PreconditionFailed):
        await complete(fake, upload, parts)
    after = await fake.everything()
    assert {name for name in before if before[name] != after[name]} == {wrong}
    await complete(fake, upload, parts, Condition.match(there.version))
    assert await fake.now("joined") == WHOLE
    assert list(await fake.everything()) == ["joined"]


async def test_parts_that_do_not_make_up_the_whole_are_not_composed(fake: Fake) -> None:
    upload, parts = await fake.upload("joined", CONTENTS)
    before = await fake.everything()
    with pytest.raises(IntegrityMismatch):
        await complete(fake, upload, parts, crc=1)
    assert await fake.everything() == before


async def test_a_part_replaced_by_other_bytes_loses_the_upload(fake: Fake) -> None:
    upload, parts = await fake.upload("joined", CONTENTS[:3])
    await fake.store.put_part(fake.bucket, "joined", upload, 2, 0, Body.of(b"part X;"))
    with pytest.raises(UploadLost):
        await complete(fake, upload, parts)


async def test_an_upload_without_parts_becomes_an_empty_object(fake: Fake) -> None:
    upload, _ = await fake.upload("joined", [])
    info = await complete(fake, upload, [], crc=0)
    assert (info.size_bytes, info.attributes.metadata) == (0, {"a": "b"})
    assert list(await fake.everything()) == ["joined"]


async def test_a_part_that_arrives_after_the_abort_removes_itself(fake: Fake) -> None:
    upload, _ = await fake.upload("joined", CONTENTS[:2])
    await fake.store.abort_upload(fake.bucket, "joined", upload)
    with pytest.raises(UploadLost):
        await fake.store.put_part(fake.bucket, "joined", upload, 3, 0, Body.of(b"late"))
    assert await fake.everything() == {}


async def test_an_upload_belongs_to_one_key(fake: Fake) -> None:
    upload, _ = await fake.upload("joined", CONTENTS[:1])
    with pytest.raises(UploadLost):
        await fake.store.put_part(fake.bucket, "other", upload, 2, 0, Body.of(b"x"))


async def test_leftovers_without_their_marker_are_listed_under_the_key_they_were_for(fake: Fake) -> None:
    key = "a//b +%2F é"
    upload, _ = await fake.upload(key, CONTENTS[:2])
    await fake.api.delete(fake.bucket, f"{upload_prefix(upload)}upload")
    assert [(found.key, found.upload_id) async for found in fake.store.list_uploads(fake.bucket, "a//")] == [(key, upload)]
    await fake.store.abort_upload(fake.bucket, key, upload)
    assert [found async for found in fake.store.list_uploads(fake.bucket)] == []


async def test_a_part_may_be_a_whole_object_but_no_range_of_one(fake: Fake) -> None:
    source = await fake.put("source", b"0123456789")
    upload, _ = await fake.upload("joined", [])
    arguments = (fake.bucket, "joined", upload, 1, fake.bucket, "source", source.version)
    for offset, length in ((0, 9), (1, 9)):
        with pytest.raises(NotSupported):
            await fake.store.copy_part(*arguments, offset, length)
    part = await fake.store.copy_part(*arguments, 0, 10)
    await complete(fake, upload, [part], crc=crc32c(b"0123456789"))
    assert await fake.now("joined") == b"0123456789"


# --- attributes and copies ---------------------------------------------------------------------------------------------

SET = Attributes(content_type="text/plain", content_language="de", cache_control="no-store", metadata={"A": "1", "b": "2"})


async def test_fields_and_metadata_that_are_no_longer_wanted_are_cleared(fake: Fake) -> None:
    before = await fake.put("k", b"bytes", SET)
    wanted = Attributes(content_type="text/html", metadata={"b": "3"})
    updated = await fake.store.update_attributes(fake.bucket, "k", before.version, wanted)
    head = await fake.store.head(fake.bucket, "k")
    assert head.version == updated.version
    assert (head.attributes.content_language, head.attributes.cache_control, head.attributes.metadata) == ("", "", {"b": "3"})
    assert await fake.now("k") == b"bytes"


async def test_an_update_that_clears_nothing_keeps_the_generation(fake: Fake) -> None:
    before = await fake.put("k", b"bytes", SET)
    wanted = Attributes(content_type="text/html", content_language="de", cache_control="no-store", metadata={"A": "9", "b": "2", "c": "3"})
    updated = await fake.store.update_attributes(fake.bucket, "k", before.version, wanted)
    assert updated.version.id == before.version.id
    assert (await fake.store.head(fake.bucket, "k")).attributes.metadata == wanted.metadata


async def test_the_storage_class_is_not_an_attribute_that_can_be_updated(fake: Fake) -> None:
    before = await fake.put("k", b"bytes")
    with pytest.raises(NotSupported):
        await fake.store.update_attributes(fake.bucket, "k", before.version, Attributes(storage_class="COLDLINE"))


async def test_a_copy_has_none_of_the_attributes_of_its_source(fake: Fake) -> None:
    source = await fake.put("a//source +", b"bytes", SET)
    copied = await fake.store.copy(fake.bucket, source.key, source.version, fake.bucket, "copy%2F", Attributes(), ABSENT)
    head = await fake.store.head(fake.bucket, "copy%2F")
    assert head.version == copied.version
    assert (head.attributes.content_language, head.attributes.cache_control, head.attributes.metadata) == ("", "", {})
    assert await fake.now("copy%2F") == b"bytes"


async def test_an_upload_that_replaces_an_object_keeps_none_of_its_attributes(fake: Fake) -> None:
    before = await fake.put("joined", b"before", SET)
    upload, parts = await fake.upload("joined", CONTENTS)
    info = await complete(fake, upload, parts, Condition.match(before.version))
    head = await fake.store.head(fake.bucket, "joined")
    assert head.version == info.version
    assert (head.attributes.content_language, head.attributes.cache_control, head.attributes.metadata) == ("", "", {"a": "b"})
    assert await fake.now("joined") == WHOLE
    assert list(await fake.everything()) == ["joined"]


async def test_the_probe_tells_what_the_server_enforces(fake: Fake) -> None:
    seen = await fake.store.probe(fake.bucket, writable=True)
    assert (seen.conditional_writes, seen.conditional_completes, seen.conditional_deletes) == (True, False, False)
    assert (seen.pinned_reads, seen.server_side_copy, seen.upload_checksum, seen.versioned) == (True, True, "response", False)
    assert await fake.everything() == {}


async def test_the_probe_removes_what_a_killed_one_left(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    left = f"{PROBE_PREFIX}killed"
    await fake.put(left, b"drayage probe", Attributes())
    await fake.store.probe(fake.bucket, writable=True)
    assert list(await fake.everything()) == [left], "it may be at work"
    monkeypatch.setattr(gcs_probe, "PROBE_ENDS_S", -60.0)
    await fake.store.probe(fake.bucket, writable=True)
    assert await fake.everything() == {}


# --- answers that the real server cannot be made to give ---------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Script:
    """A server that answers from `answers`, first in first out, and keeps what it was asked."""

    store: GcsStore
    answers: list[web.Response | Answer] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, dict(request.query), await request.read()))
        answer = self.answers.pop(0)
        return answer if isinstance(answer, web.StreamResponse) else await answer(request)


@asynccontextmanager
async def scripted(*answers: web.Response | Answer) -> AsyncIterator[Script]:
    """The script must have been played to its end when the block is left."""
    holder: list[Script] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        return await holder[0](request)

    app = web.Application(client_max_size=8 * MIB)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    store = GcsStore("scripted", endpoint=f"http://{host}:{port}", anonymous=True)
    holder.append(Script(store, list(answers)))
    try:
        yield holder[0]
        assert holder[0].answers == []
    finally:
        await store.close()
        await runner.cleanup()


def said(resource: dict[str, Any]) -> web.Response:
    return web.json_response(resource)


def refused(status: int, reason: str, **headers: str) -> web.Response:
    error = {"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}}
    return web.json_response(error, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def resource(name: str = "k", data: bytes = b"bytes", generation: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "generation": str(generation),
        "metageneration": "1",
        "size": str(len(data)),
        "crc32c": encode_crc(crc32c(data)),
        "timeCreated": "2026-11-21T03:56:11.785Z",
        **more,
    }


EMPTY = {"kind": "storage#objects"}


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [(401, "authError", CredentialsRefused), (403, "forbidden", PermissionRefused), (503, "backendError", ServerFault)],
)
async def test_a_refused_head_is_never_absence(status: int, reason: str, error: type[ObjectError]) -> None:
    async with scripted(refused(status, reason)) as script:
        with pytest.raises(error):
            await script.store.head("b", "k")


async def test_a_listing_that_does_not_go_on_is_a_fault_and_not_asked_for_ever() -> None:
    pages = [EMPTY | {"nextPageToken": token} for token in ("1", "2", "2")]
    async with scripted(*map(said, pages)) as script:
        with pytest.raises(ServerFault, match="does not go on"):
            [page async for page in script.store.list_objects("b")]


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(("answer", "problem"), [(hang_up, EndpointUnreachable), (web.Response(text="<html>"), ServerFault)])
async def test_a_bucket_whose_settings_cannot_be_had_is_told_by_name(answer: web.Response | Answer, problem: type[ObjectError]) -> None:
    async with scripted(said(EMPTY), answer) as script:
        with pytest.raises(problem, match="get bucket 'b'"):
            await script.store.probe("b", writable=False)


async def test_who_may_not_read_the_settings_of_a_bucket_may_use_it() -> None:
    async with scripted(said(EMPTY), refused(403, "forbidden")) as script:
        assert "versioning is unknown" in (await script.store.probe("b", writable=False)).detail


@pytest.mark.parametrize(
    "page",
    [
        {"items": {"name": "k"}},
        {"items": [1]},
        {"items": [{"generation": "7"}]},
        {"items": [resource(size="-1")]},
        {"items": [resource(size=1e400)]},
        {"nextPageToken": 1},
    ],
)
async def test_what_is_no_page_of_a_listing_is_a_fault(page: dict[str, Any]) -> None:
    async with scripted(said(page)) as script:
        with pytest.raises(ServerFault):
            [entry async for entry in script.store.list_objects("b")]


async def test_an_answer_that_is_nested_without_end_is_a_fault() -> None:
    async with scripted(web.Response(text="[" * 100_000), web.Response(status=500, text="[" * 100_000)) as script:
        for _ in range(2):
            with pytest.raises(ServerFault):
                await script.store.head("b", "k")


@pytest.mark.parametrize("answer", [{"done": True}, {"done": False}, {}, {"rewriteToken": "t", "totalBytesRewritten": "some"}])
async def test_a_rewrite_that_neither_ends_nor_goes_on_is_a_fault(answer: dict[str, Any]) -> None:
    async with scripted(said(answer)) as script:
        with pytest.raises(ServerFault):
            await script.store.copy("b", "k", Version(5, id="7"), "b", "other", Attributes(), ANY, progress=lambda _: None)


async def test_a_checksum_of_another_form_is_none_and_metadata_is_text() -> None:
    async with scripted(said(resource(crc32c=5, md5Hash=[1], metadata={"a": 5})), said(resource(metadata=[1]))) as script:
        info = await script.store.head("b", "k")
        assert (info.checksums.crc32c, info.checksums.md5, info.attributes.metadata) == (None, None, {"a": "5"})
        with pytest.raises(ServerFault):
            await script.store.head("b", "k")


async def test_a_missing_object_is_not_absence_while_the_bucket_cannot_be_listed() -> None:
    async with scripted(refused(404, "notFound"), refused(403, "forbidden")) as script:
        with pytest.raises(PermissionRefused):
            await script.store.head("b", "k")


async def test_a_bucket_that_was_just_seen_is_not_looked_at_for_every_absent_key() -> None:
    async with scripted(refused(404, "notFound"), said(EMPTY), refused(404, "notFound")) as script:
        for _ in range(2):
            with pytest.raises(ObjectNotFound):
                await script.store.head("b", "k")


async def test_throttling_tells_how_long_to_wait() -> None:
    async with scripted(refused(429, "rateLimitExceeded", Retry_After="3")) as script:
        with pytest.raises(Throttled) as caught:
            await script.store.head("b", "k")
    assert caught.value.retry_after_s == 3


async def test_an_answer_about_another_object_is_not_believed() -> None:
    async with scripted(said(resource("other"))) as script:
        with pytest.raises(ServerFault):
            await script.store.head("b", "k")


async def test_the_store_is_told_the_checksum_before_the_bytes_and_its_refusal_is_a_mismatch() -> None:
    async with scripted(refused(400, "invalid")) as script:
        with pytest.raises(IntegrityMismatch):
            await script.store.put("b", "k", Body.of(b"bytes"), Attributes(), ABSENT)
    method, path, query, sent = script.asked[0]
    assert (method, path.partition("?")[0]) == ("POST", "/upload/storage/v1/b/b/o")
    assert (query["uploadType"], query["ifGenerationMatch"]) == ("multipart", "0")
    metadata, _, rest = sent.split(b"\r\n\r\n", 1)[1].partition(b"\r\n--")
    assert json.loads(metadata) == {"name": "k", "crc32c": encode_crc(crc32c(b"bytes"))}
    assert b"\r\n\r\nbytes\r\n--" in rest


async def test_an_object_stored_with_other_bytes_is_removed_again_by_its_generation() -> None:
    async with scripted(said(resource(data=b"bytez", generation=9)), web.Response(status=204)) as script:
        with pytest.raises(IntegrityMismatch):
            await script.store.put("b", "k", Body.of(b"bytes"), Attributes(), ANY)
    method, _, query, _ = script.asked[1]
    assert (method, query) == ("DELETE", {"generation": "9", "ifGenerationMatch": "9"})


async def test_no_endless_refusal_is_read_in_place_of_an_object() -> None:
    async with scripted(web.Response(status=403, body=b"x" * 70_000)) as script:
        with pytest.raises(ServerFault, match="larger than"):
            async with script.store.read("b", "k", pin=Version(9, id="1"), offset=0, length=9):
                pass


def listing(*resources: dict[str, Any]) -> web.Response:
    return said({"items": list(resources)})


async def test_a_composite_with_other_bytes_is_removed_again_and_its_parts_are_pinned() -> None:
    prefix = upload_prefix("u")
    parts = [resource(part_name("u", n), f"p{n}".encode(), 10 + n) for n in (1, 2)]
    answers = (
        listing(resource(f"{prefix}upload", b""), *parts),
        said(resource(data=b"p1pX", generation=30)),
        web.Response(status=204),
    )
    async with scripted(*answers) as script:
        stored = [Part(n, 2, crc32c=crc32c(f"p{n}".encode())) for n in (1, 2)]
        with pytest.raises(IntegrityMismatch):
            await script.store.complete_upload("b", "k", "u", stored, Attributes(), ANY, crc32c=crc32c(b"p1p2"))
    composed = json.loads(script.asked[1][3])
    assert [(source["name"], source["generation"]) for source in composed["sourceObjects"]] == [
        (part_name("u", 1), "11"),
        (part_name("u", 2), "12"),
    ]
    assert (script.asked[2][0], script.asked[2][2]["generation"]) == ("DELETE", "30")


async def test_a_bucket_that_keeps_versions_keeps_none_of_an_aborted_upload() -> None:
    prefix = upload_prefix("u")
    marker, replaced, part = ((f"{prefix}upload", 4), (part_name("u", 1), 5), (part_name("u", 1), 6))
    there = [resource(name, b"x", generation) for name, generation in (marker, replaced, part)]
    for gone in there[:2]:
        gone["timeDeleted"] = "2026-01-01T00:00:00Z"
    answers = web.Response(status=204), listing(*there), *(web.Response(status=204) for _ in there), listing()
    async with scripted(*answers) as script:
        await script.store.abort_upload("b", "k", "u")
    assert script.asked[1][2]["versions"] == "true"
    assert sorted(query["generation"] for method, _, query, _ in script.asked[2:] if method == "DELETE") == ["4", "5", "6"]


async def test_the_final_compose_carries_the_condition_and_a_refusal_leaves_the_upload() -> None:
    here = Condition.match(Version(5, id="77"))
    answers = (
        listing(resource(f"{upload_prefix('u')}upload", b""), resource(part_name("u", 1), b"p1")),
        said(resource(generation=77)),  # the look before the compose, since this endpoint was never probed
        refused(412, "conditionNotMet"),
    )
    async with scripted(*answers) as script:
        with pytest.raises(PreconditionFailed):
            await script.store.complete_upload("b", "k", "u", [Part(1, 2)], Attributes(), here, crc32c=None)
    assert script.asked[2][2]["ifGenerationMatch"] == "77"


async def test_a_rewrite_goes_on_with_its_token_until_it_is_done() -> None:
    steps = (
        {"done": False, "totalBytesRewritten": "2", "objectSize": "5", "rewriteToken": "t/1"},
        {"done": False, "totalBytesRewritten": "4", "objectSize": "5", "rewriteToken": "t/2"},
        {"done": True, "totalBytesRewritten": "5", "objectSize": "5", "resource": resource()},
    )
    done: list[int] = []
    async with scripted(*map(said, steps)) as script:
        await script.store.copy("a", "s//é", Version(5, id="3"), "b", "k", Attributes(), ANY, progress=done.append)
    assert done == [2, 4, 5]
    assert [asked[2].get("rewriteToken") for asked in script.asked] == [None, "t/1", "t/2"]
    assert all(asked[2]["sourceGeneration"] == "3" for asked in script.asked)
    assert script.asked[0][1].startswith("/storage/v1/b/a/o/s%2F%2F%C3%A9/rewriteTo/b/b/o/k?")


async def test_a_copy_whose_source_generation_is_gone_is_a_changed_source() -> None:
    async with scripted(refused(404, "notFound"), said(EMPTY), said(EMPTY)) as script:
        with pytest.raises(SourceChanged):
            await script.store.copy("a", "s", Version(5, id="3"), "b", "k", Attributes(), ANY)


async def test_an_update_is_fenced_by_generation_and_metageneration_and_removes_keys_by_null() -> None:
    before = resource(metadata={"old": "1"}, contentLanguage="de")
    async with scripted(said(before), said(resource(metadata={"new": "2"}))) as script:
        await script.store.update_attributes("b", "k", Version(5, id="7", revision="1"), Attributes(metadata={"new": "2"}))
    _, _, query, sent = script.asked[1]
    assert (query["ifGenerationMatch"], query["ifMetagenerationMatch"]) == ("7", "1")
    patch = json.loads(sent)
    assert patch["metadata"] == {"old": None, "new": "2"}
    assert patch["contentLanguage"] is None
    assert "contentType" not in patch


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("a", "outside")])
async def test_a_listing_that_breaks_its_order_is_a_fault(names: tuple[str, ...]) -> None:
    prefix = "" if "outside" not in names else "a"
    async with scripted(listing(*map(resource, names))) as script:
        with pytest.raises(ServerFault):
            _ = [page async for page in script.store.list_objects("b", prefix)]


async def test_a_gzip_object_that_comes_back_decompressed_is_a_mismatch() -> None:
    decoded = web.Response(body=b"hello", headers={"X-Goog-Stored-Content-Encoding": "gzip", "X-Goog-Generation": "7"})
    async with scripted(decoded) as script:
        with pytest.raises(IntegrityMismatch):
            async with script.store.read("b", "k", pin=Version(5, id="7"), offset=0, length=5):
                pytest.fail("decompressed bytes were handed out")


async def test_a_body_cut_short_by_the_server_is_an_error() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "5", "X-Goog-Generation": "7"})
        await response.prepare(request)
        await response.write(b"hel")
        assert request.transport is not None
        request.transport.close()
        return response

    async with scripted(cut) as script:
        with pytest.raises((IntegrityMismatch, ServerFault)):
            async with script.store.read("b", "k", pin=Version(5, id="7"), offset=0, length=5) as chunks:
                _ = [chunk async for chunk in chunks]
