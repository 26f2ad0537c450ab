"""What `stores/base.py` promises, sentence by sentence, held against every store on its real server."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from replication.errors import (
    BucketNotFound,
    IntegrityMismatch,
    KeyCollision,
    KeyUnrepresentable,
    MetadataUnrepresentable,
    ObjectError,
    ObjectNotFound,
    PreconditionFailed,
    SourceChanged,
    UploadLost,
)
from replication.keys import RESERVED_PREFIX
from replication.models import ABSENT, ANY, Attributes, Condition, ListedObject, ObjectInfo, Part, Version
from stores.body import Body
from stores.checksum import Digest, crc32c
from tests.poll import within
from tests.stores.conftest import Case
from tests.stores.keys import ODD_KEYS

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def body_of(chunks: list[bytes | Exception], size: int, check: Callable[[Digest], None] | None = None) -> Body:
    """A body that gives `chunks` in turn; an exception among them is raised in its place."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    return Body(stream(), size, check=check)


# --- bytes and attributes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB + 1])
async def test_bytes_come_back_as_they_went_in(case: Case, size: int) -> None:
    data = noise(size)
    stored = await case.put("object", data)
    head = await case.store.head(case.bucket, case.key())
    assert head.key == stored.key == case.key()
    assert head.size_bytes == stored.size_bytes == size
    assert head.version.token == stored.version.token
    assert await case.get(head) == data


async def test_every_checksum_that_is_told_is_right(case: Case) -> None:
    data = noise(100_000)
    for info in (await case.put("object", data), await case.store.head(case.bucket, case.key())):
        assert info.checksums.crc32c in (None, crc32c(data))
        assert info.checksums.crc32 in (None, zlib.crc32(data))
        assert info.checksums.md5 in (None, hashlib.md5(data, usedforsecurity=False).hexdigest())


async def test_attributes_come_back_and_encoded_bytes_are_never_decoded(case: Case) -> None:
    data = gzip.compress(noise(5000) + b"x" * 5000)
    wanted = Attributes(
        content_type="text/csv; charset=utf-8",
        content_encoding="gzip",
        content_disposition='attachment; filename="a b.csv"',
        content_language="de",
        cache_control="max-age=60",
        expires="" if case.store.kind == "gcs" else "Wed, 21 Oct 2026 07:28:00 GMT",
        metadata={"color": "blue", "drayage-route": "photos"},
    )
    await case.put("object", data, wanted)
    head = await case.store.head(case.bucket, case.key())
    for name in ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "expires", "metadata"):
        assert getattr(head.attributes, name) == getattr(wanted, name), name
    assert await case.get(head) == data


async def test_tags_come_back_where_the_store_has_them(case: Case) -> None:
    await case.put("object", b"x", Attributes(tags={"team": "data", "cost centre": "a+b=c/d"} if case.store.limits.tags else None))
    head = await case.store.head(case.bucket, case.key())
    if case.store.limits.tags:
        assert head.attributes.tags == {"team": "data", "cost centre": "a+b=c/d"}
        assert (await case.store.head(case.bucket, case.key(), tags=False)).attributes.tags is None
    else:
        assert not head.attributes.tags


async def test_metadata_beyond_ascii_is_kept_exactly_or_refused(case: Case) -> None:
    wanted = {"name": "žluťoučký", "city": "東京"}
    try:
        await case.put("object", b"x", Attributes(metadata=wanted))
    except MetadataUnrepresentable:
        assert await case.listed() == []
    else:
        assert (await case.store.head(case.bucket, case.key())).attributes.metadata == wanted


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 9_999), (1, 9_998), (9_999, 1), (0, 10_000), (4_321, 1_234)])
async def test_a_range_is_exactly_those_bytes(case: Case, offset: int, length: int) -> None:
    data = noise(10_000)
    info = await case.put("object", data)
    assert await case.get(info, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (99, 2), (100, 1), (500, 10)])
async def test_a_range_beyond_the_end_is_an_integrity_mismatch(case: Case, offset: int, length: int) -> None:
    info = await case.put("object", noise(100))
    with pytest.raises(IntegrityMismatch):
        await case.get(info, offset, length)


# --- conditions --------------------------------------------------------------------------------------------------------


async def test_absent_creates_and_never_replaces(case: Case) -> None:
    await case.put("object", b"first", condition=ABSENT)
    with pytest.raises(PreconditionFailed):
        await case.put("object", b"second", condition=ABSENT)
    assert await case.now() == b"first"


async def test_match_replaces_the_version_it_names_and_no_other(case: Case) -> None:
    first = await case.put("object", b"first")
    second = await case.put("object", b"the second", condition=Condition.match(first.version))
    assert await case.now() == b"the second"
    with pytest.raises(PreconditionFailed):
        await case.put("object", b"the third one", condition=Condition.match(first.version))
    assert (await case.store.head(case.bucket, case.key())).version.token == second.version.token
    assert await case.now() == b"the second"


async def test_match_does_not_create(case: Case) -> None:
    gone = await case.put("object", b"gone")
    await case.store.delete(case.bucket, case.key(), gone.version)
    with pytest.raises(PreconditionFailed):
        await case.put("object", b"back", condition=Condition.match(gone.version))
    assert await case.listed() == []


async def test_any_creates_and_replaces(case: Case) -> None:
    await case.put("object", b"first", Attributes(metadata={"n": "1"}), ANY)
    await case.put("object", b"the second", Attributes(content_type="text/plain"), ANY)
    assert await case.now() == b"the second"
    assert (await case.store.head(case.bucket, case.key())).attributes.metadata == {}


async def test_of_concurrent_creations_exactly_one_wins(case: Case) -> None:
    payloads = [f"writer {n}".encode() for n in range(6)]
    results = await asyncio.gather(*(case.put("object", data, condition=ABSENT) for data in payloads), return_exceptions=True)
    winners = [n for n, result in enumerate(results) if isinstance(result, ObjectInfo)]
    assert len(winners) == 1
    assert all(isinstance(result, PreconditionFailed) for n, result in enumerate(results) if n not in winners)
    assert await case.now() == payloads[winners[0]]


# --- a body that fails -------------------------------------------------------------------------------------------------


def refuse(digest: Digest) -> None:
    raise IntegrityMismatch("the source's checksum differs")


FAILING: dict[str, tuple[type[ObjectError], Callable[[], Body]]] = {
    "cut": (SourceChanged, lambda: body_of([noise(300_000), SourceChanged("cut")], 600_000)),
    "cut-at-once": (SourceChanged, lambda: body_of([SourceChanged("cut")], 10)),
    "refused-by-check": (IntegrityMismatch, lambda: body_of([noise(1000), noise(1000)], 2000, refuse)),
    "one-chunk-refused": (IntegrityMismatch, lambda: body_of([b"x"], 1, refuse)),
    "empty-refused": (IntegrityMismatch, lambda: body_of([], 0, refuse)),
    "short": (IntegrityMismatch, lambda: body_of([noise(300_000)], 300_001)),
    "long": (IntegrityMismatch, lambda: body_of([noise(1000), b"x"], 1000)),
}


@pytest.mark.parametrize("failure", FAILING)
async def test_a_failing_body_leaves_an_absent_key_absent(case: Case, failure: str) -> None:
    error, make = FAILING[failure]
    with pytest.raises(error):
        await case.store.put(case.bucket, case.key(), make(), Attributes(), ABSENT)
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key())
    assert await case.listed() == []


@pytest.mark.parametrize("failure", FAILING)
async def test_a_failing_body_leaves_the_object_that_was_there(case: Case, failure: str) -> None:
    before = await case.put("object", b"what was there", Attributes(metadata={"kept": "yes"}))
    error, make = FAILING[failure]
    with pytest.raises(error):
        await case.store.put(case.bucket, case.key(), make(), Attributes(), Condition.match(before.version))
    after = await case.store.head(case.bucket, case.key())
    assert (after.version.token, after.attributes.metadata) == (before.version.token, {"kept": "yes"})
    assert await case.get(after) == b"what was there"


async def test_bytes_other_than_announced_are_not_stored(case: Case) -> None:
    body = body_of([b"these are not", b" the bytes"], 23)
    body.known_crc32c = crc32c(b"x" * 23)
    with pytest.raises(IntegrityMismatch):
        await case.store.put(case.bucket, case.key(), body, Attributes(), ABSENT)
    assert await case.listed() == []


async def test_a_cancelled_put_stores_nothing(case: Case) -> None:
    started, never = asyncio.Event(), asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield noise(200_000)
        yield noise(200_000)
        started.set()
        await never.wait()
        yield noise(200_000)

    put = asyncio.create_task(case.store.put(case.bucket, case.key(), Body(stream(), 600_000), Attributes(), ANY))
    await within(started.wait(), 20)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key())
    assert await case.listed() == []


# --- pins --------------------------------------------------------------------------------------------------------------


async def test_a_pinned_read_of_an_overwritten_object_fails(case: Case) -> None:
    first = await case.put("object", noise(1000, seed=1))
    await case.put("object", noise(1000, seed=2))
    with pytest.raises(SourceChanged):
        await case.get(first)


async def test_a_pinned_read_of_a_deleted_object_fails(case: Case) -> None:
    info = await case.put("object", noise(1000))
    await case.store.delete(case.bucket, case.key(), info.version)
    with pytest.raises(SourceChanged):
        await case.get(info)


@pytest.mark.parametrize("size", [0, 1, 70_000])
async def test_a_listed_object_is_fetched_with_its_attributes_or_not_at_all(case: Case, size: int) -> None:
    attributes = Attributes(content_type="text/x-fetched", metadata={"a": "b"})
    first = await case.put("object", noise(size, seed=1), attributes)
    pin = (await _entry(case)).version
    info, data = await case.store.fetch(case.bucket, case.key(), pin=pin)
    assert data == noise(size, seed=1)
    assert (info.version.token, info.attributes.content_type, info.attributes.metadata) == (
        first.version.token,
        "text/x-fetched",
        {"a": "b"},
    )

    await case.put("object", noise(size + 1, seed=2))
    with pytest.raises(SourceChanged):
        await case.store.fetch(case.bucket, case.key(), pin=pin)
    await case.store.delete(case.bucket, case.key(), (await _entry(case)).version)
    with pytest.raises(SourceChanged):
        await case.store.fetch(case.bucket, case.key(), pin=pin)


async def _entry(case: Case) -> ListedObject:
    (found,) = [entry async for page in case.store.list_objects(case.bucket, case.prefix) for entry in page]
    return found


# --- absence -----------------------------------------------------------------------------------------------------------


async def test_an_absent_key_is_not_found(case: Case) -> None:
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key())


async def test_a_key_below_an_absent_one_is_not_found(case: Case) -> None:
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key("no/such/folder/object"))


async def _list_all(case: Case, bucket: str) -> object:
    return [page async for page in case.store.list_objects(bucket)]


async def _list_uploads(case: Case, bucket: str) -> object:
    return [upload async for upload in case.store.list_uploads(bucket)]


async def _read(case: Case, bucket: str) -> object:
    async with case.store.read(bucket, "k", pin=Version(1, etag="e", id="1"), offset=0, length=1) as chunks:
        return [chunk async for chunk in chunks]


IN_NO_BUCKET: dict[str, Callable[[Case, str], Awaitable[object]]] = {
    "head": lambda case, bucket: case.store.head(bucket, "k"),
    "list": _list_all,
    "read": _read,
    "put": lambda case, bucket: case.store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT),
    "delete": lambda case, bucket: case.store.delete(bucket, "k", Version(1, etag="e", id="1")),
    "begin-upload": lambda case, bucket: case.store.begin_upload(bucket, "k", Attributes()),
    "list-uploads": _list_uploads,
    "probe": lambda case, bucket: case.store.probe(bucket, writable=False),
    "writable-probe": lambda case, bucket: case.store.probe(bucket, writable=True),
}


@pytest.mark.parametrize("call", IN_NO_BUCKET)
async def test_a_missing_bucket_is_never_taken_for_an_absent_key(case: Case, call: str) -> None:
    with pytest.raises(BucketNotFound):
        await IN_NO_BUCKET[call](case, f"nowhere-{uuid.uuid4().hex}")


# --- listings ----------------------------------------------------------------------------------------------------------

# "-" and "." sort before "/", and so before what stands below a folder; code points above U+FFFF sort after U+FFEE in
# UTF-8 and before it in UTF-16.
LISTED = ["b-1", "b.1", "b/1", "b/2/3", "b/2-", "b/20", "b0", "B", "bb", "c/d/e/f", "z", "é", "文", "\uffee", "\U00010000"]


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=str.encode)


@pytest.fixture
async def listing(case: Case) -> dict[str, ObjectInfo]:
    infos = await asyncio.gather(*(case.put(name, name.encode()) for name in LISTED))
    return dict(zip(LISTED, infos, strict=True))


@pytest.mark.parametrize("page_size", [1, 2, 7, 1000])
async def test_keys_are_listed_in_utf8_order_over_any_number_of_pages(case: Case, listing: dict[str, ObjectInfo], page_size: int) -> None:
    pages = [page async for page in case.store.list_objects(case.bucket, case.prefix, page_size=page_size)]
    assert [entry.key for page in pages for entry in page] == [case.key(name) for name in in_order(LISTED)]
    assert all(0 < len(page) <= page_size for page in pages)


async def test_a_listing_names_the_versions_that_head_names(case: Case, listing: dict[str, ObjectInfo]) -> None:
    pages = [page async for page in case.store.list_objects(case.bucket, case.prefix)]
    for entry in (entry for page in pages for entry in page):
        head = await case.store.head(case.bucket, entry.key)
        assert (entry.version.token, entry.version.size_bytes) == (head.version.token, head.size_bytes)
        assert entry.checksums.crc32c in (None, crc32c(entry.key.removeprefix(case.prefix).encode()))
        assert entry.version.modified is not None
        assert abs(entry.version.modified - datetime.now(UTC)) < timedelta(minutes=10)


@pytest.mark.parametrize(
    "after", ["", "b", "b-1", "b.1", "b/", "b/1", "b/2", "b/2/", "b/2/3", "b/2/4", "b/9", "bb", "zz", "\uffee", "\U00010000"]
)
async def test_start_after_gives_the_greater_keys(case: Case, listing: dict[str, ObjectInfo], after: str) -> None:
    expected = [name for name in in_order(LISTED) if name.encode() > after.encode()]
    assert await case.listed(start_after=case.key(after), page_size=3) == expected


@pytest.mark.parametrize("prefix", ["b", "b/", "b/2", "b/2/", "b-", "c/d", "é", "nothing", "nothing/below"])
async def test_a_prefix_is_text_not_a_folder(case: Case, listing: dict[str, ObjectInfo], prefix: str) -> None:
    assert await case.listed(prefix, page_size=3) == in_order([name for name in LISTED if name.startswith(prefix)])


async def test_prefix_and_start_after_hold_together(case: Case, listing: dict[str, ObjectInfo]) -> None:
    assert await case.listed("b/", start_after=case.key("b/1")) == ["b/2-", "b/2/3", "b/20"]
    assert await case.listed("b/", start_after=case.key("a")) == ["b/1", "b/2-", "b/2/3", "b/20"]
    assert await case.listed("b/", start_after=case.key("c")) == []


async def test_reserved_names_are_not_listed(case: Case) -> None:
    key = f"{RESERVED_PREFIX}{uuid.uuid4().hex}"
    info = await case.store.put(case.bucket, key, Body.of(b"x"), Attributes(), ANY)
    for prefix in ("", ".", ".drayage", RESERVED_PREFIX, key):
        listed = [entry.key async for page in case.store.list_objects(case.bucket, prefix, page_size=5) for entry in page]
        assert not [name for name in listed if name.startswith(RESERVED_PREFIX)]
    await case.store.delete(case.bucket, key, info.version)


# --- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_KEYS)
async def test_an_odd_key_is_held_byte_for_byte_or_refused_by_name(case: Case, name: str) -> None:
    key, data = ODD_KEYS[name], f"the bytes of {name}".encode()
    before = {entry.key async for page in case.store.list_objects(case.bucket) for entry in page}
    try:
        stored = await case.store.put(case.bucket, key, Body.of(data), Attributes(), ABSENT)
    except (KeyUnrepresentable, KeyCollision):
        after = {entry.key async for page in case.store.list_objects(case.bucket) for entry in page}
        assert after == before
        return
    try:
        head = await case.store.head(case.bucket, key)
        assert (head.key, await case.get(head)) == (key, data)
        after = {entry.key async for page in case.store.list_objects(case.bucket) for entry in page}
        assert after - before == {key}
        assert [entry.key async for page in case.store.list_objects(case.bucket, key) for entry in page] == [key]
    finally:
        await case.store.delete(case.bucket, key, stored.version)
    assert {entry.key async for page in case.store.list_objects(case.bucket) for entry in page} == before


async def collision_of(case: Case, name: str, data: bytes) -> str:
    """Puts an object; the message if that collides with another key, else ""."""
    try:
        await case.put(name, data)
    except KeyCollision as collision:
        return str(collision)
    return ""


async def test_an_object_and_one_below_its_name_are_both_held_or_the_second_is_refused(case: Case) -> None:
    await case.put("a", b"above")
    if refused := await collision_of(case, "a/b", b"below"):
        assert f"{case.key('a')!r}" in refused
        assert f"{case.key('a/b')!r}" in refused
        assert await case.listed() == ["a"]
    else:
        assert await case.listed() == ["a", "a/b"]
        assert await case.now("a/b") == b"below"
    assert await case.now("a") == b"above"


async def test_an_object_named_as_a_folder_is_held_or_refused(case: Case) -> None:
    await case.put("f/below", b"below")
    if refused := await collision_of(case, "f", b"above"):
        assert f"{case.key('f')!r}" in refused
        assert f"{case.key('f/')!r}" in refused
        assert await case.listed() == ["f/below"]
    else:
        assert await case.listed() == ["f", "f/below"]
        assert await case.now("f") == b"above"
    assert await case.now("f/below") == b"below"


# --- parts -------------------------------------------------------------------------------------------------------------


def sizes(case: Case) -> list[int]:
    least = max(case.store.limits.min_part_size, 1000)
    return [least + 1, least, 17]


def parts_of(case: Case) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """An object's bytes, and its parts as (number, offset, bytes)."""
    data = noise(sum(sizes(case)))
    cuts = [0, sizes(case)[0], sizes(case)[0] + sizes(case)[1], len(data)]
    return data, [(n, cuts[n - 1], data[cuts[n - 1] : cuts[n]]) for n in (1, 2, 3)]


async def send(case: Case, upload: str, pieces: list[tuple[int, int, bytes]], name: str = "object") -> list[Part]:
    sent = [await case.store.put_part(case.bucket, case.key(name), upload, n, at, Body.of(piece)) for n, at, piece in pieces]
    return sorted(sent, key=lambda part: part.number)


async def complete(case: Case, upload: str, parts: list[Part], condition: Condition, crc: int | None, name: str = "object") -> ObjectInfo:
    key = case.key(name)
    return await case.store.complete_upload(case.bucket, key, upload, parts, UPLOADED, condition, crc32c=crc)


UPLOADED = Attributes(content_type="application/x-parts", metadata={"by": "parts"})


async def begin(case: Case, name: str = "object") -> str:
    return await case.store.begin_upload(case.bucket, case.key(name), UPLOADED)


async def test_parts_sent_in_any_order_and_again_become_one_object(case: Case) -> None:
    data, pieces = parts_of(case)
    upload = await begin(case)
    number, offset, piece = pieces[0]
    await send(case, upload, [(number, offset, noise(len(piece), seed=9))])
    parts = await send(case, upload, [pieces[2], pieces[0], pieces[1]])
    listed = await case.store.list_parts(case.bucket, case.key(), upload)
    assert [(part.number, part.size_bytes) for part in listed] == [(n, len(piece)) for n, _, piece in pieces]
    assert all(part.crc32c in (None, crc32c(piece)) for part, (_, _, piece) in zip(listed, pieces, strict=True))
    assert await case.listed() == []
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key())

    info = await complete(case, upload, parts, ABSENT, crc32c(data))
    head = await case.store.head(case.bucket, case.key())
    assert head.version.token == info.version.token
    assert head.checksums.crc32c in (None, crc32c(data))
    assert (head.attributes.content_type, head.attributes.metadata) == ("application/x-parts", {"by": "parts"})
    assert await case.get(head) == data
    assert await case.listed() == ["object"]


async def test_an_upload_completes_from_the_parts_that_are_listed(case: Case) -> None:
    data, pieces = parts_of(case)
    upload = await begin(case)
    await send(case, upload, pieces)
    listed = await case.store.list_parts(case.bucket, case.key(), upload)
    await complete(case, upload, listed, ABSENT, crc32c(data))
    assert await case.now() == data


async def test_completing_never_replaces_what_the_condition_protects(case: Case) -> None:
    data, pieces = parts_of(case)
    there = await case.put("object", b"what was there")
    upload = await begin(case)
    parts = await send(case, upload, pieces)
    with pytest.raises(PreconditionFailed):
        await complete(case, upload, parts, ABSENT, crc32c(data))
    assert (await case.store.head(case.bucket, case.key())).version.token == there.version.token
    assert await case.now() == b"what was there"
    await case.store.abort_upload(case.bucket, case.key(), upload)


async def test_completing_replaces_the_version_that_it_names(case: Case) -> None:
    data, pieces = parts_of(case)
    stale = await case.put("object", b"older")
    current = await case.put("object", b"what was there")
    upload = await begin(case)
    parts = await send(case, upload, pieces)
    with pytest.raises(PreconditionFailed):
        await complete(case, upload, parts, Condition.match(stale.version), crc32c(data))
    assert await case.now() == b"what was there"
    await case.store.abort_upload(case.bucket, case.key(), upload)

    upload = await begin(case)
    await complete(case, upload, await send(case, upload, pieces), Condition.match(current.version), crc32c(data))
    assert await case.now() == data


async def test_a_wrong_checksum_of_the_whole_is_enforced_or_shows(case: Case) -> None:
    data, pieces = parts_of(case)
    upload = await begin(case)
    parts = await send(case, upload, pieces)
    try:
        info = await complete(case, upload, parts, ABSENT, crc32c(data) ^ 1)
    except IntegrityMismatch:
        assert await case.listed() == []
        await case.store.abort_upload(case.bucket, case.key(), upload)
    else:
        assert info.checksums.crc32c == crc32c(data)


async def test_completing_twice_changes_nothing(case: Case) -> None:
    data, pieces = parts_of(case)
    upload = await begin(case)
    parts = await send(case, upload, pieces)
    info = await complete(case, upload, parts, ABSENT, crc32c(data))
    with pytest.raises((UploadLost, PreconditionFailed)):
        await complete(case, upload, parts, ABSENT, crc32c(data))
    assert (await case.store.head(case.bucket, case.key())).version.token == info.version.token
    assert await case.now() == data


async def test_a_failing_body_stores_no_part(case: Case) -> None:
    upload = await begin(case)
    for body in (body_of([noise(1000), SourceChanged("cut")], 2000), body_of([b"abc"], 3, refuse)):
        with pytest.raises((SourceChanged, IntegrityMismatch)):
            await case.store.put_part(case.bucket, case.key(), upload, 1, 0, body)
    assert await case.store.list_parts(case.bucket, case.key(), upload) == []
    await case.store.abort_upload(case.bucket, case.key(), upload)


async def test_aborting_removes_the_upload_and_may_be_repeated(case: Case) -> None:
    upload = await begin(case)
    await send(case, upload, parts_of(case)[1])
    await case.store.abort_upload(case.bucket, case.key(), upload)
    await case.store.abort_upload(case.bucket, case.key(), upload)
    with pytest.raises(UploadLost):
        await case.store.list_parts(case.bucket, case.key(), upload)
    with pytest.raises(UploadLost):
        await case.store.put_part(case.bucket, case.key(), upload, 1, 0, Body.of(b"x"))
    assert [found async for found in case.store.list_uploads(case.bucket, case.prefix)] == []
    assert await case.listed() == []


async def test_aborting_leaves_the_object_and_other_uploads_of_its_key(case: Case) -> None:
    data, pieces = parts_of(case)
    await case.put("object", b"what was there")
    mine, other = await begin(case), await begin(case)
    parts = await send(case, other, pieces)
    await case.store.abort_upload(case.bucket, case.key(), mine)
    assert await case.now() == b"what was there"
    await complete(case, other, parts, ANY, crc32c(data))
    assert await case.now() == data


async def test_open_uploads_are_listed_with_key_id_and_time(case: Case) -> None:
    uploads = {await begin(case, name): case.key(name) for name in ("one", "sub/two", "sub/two", "other")}
    for upload, key in uploads.items():
        await case.store.put_part(case.bucket, key, upload, 1, 0, Body.of(b"part"))
    found = [upload async for upload in case.store.list_uploads(case.bucket, case.prefix)]
    assert {upload.upload_id: upload.key for upload in found} == uploads
    assert all(abs(upload.started - datetime.now(UTC)) < timedelta(minutes=10) for upload in found)
    below = [upload.key async for upload in case.store.list_uploads(case.bucket, case.key("sub/"))]
    assert below == [case.key("sub/two")] * 2
    for upload, key in uploads.items():
        await case.store.abort_upload(case.bucket, key, upload)
    assert [upload async for upload in case.store.list_uploads(case.bucket, case.prefix)] == []


async def test_parts_may_come_from_a_pinned_object_of_the_store(case: Case) -> None:
    data, pieces = parts_of(case)
    if case.store.kind == "gcs":  # GCS copies no ranges: a part there can only be a whole object
        pieces = [(1, 0, data)]
    source = await case.put("source", data)
    upload = await begin(case)
    at = (case.bucket, case.key(), upload)
    parts = [await case.store.copy_part(*at, n, case.bucket, source.key, source.version, start, len(piece)) for n, start, piece in pieces]
    assert [(part.number, part.size_bytes) for part in parts] == [(n, len(piece)) for n, _, piece in pieces]
    await complete(case, upload, parts, ABSENT, crc32c(data))
    assert await case.now() == data


async def test_a_part_is_not_copied_from_another_version(case: Case) -> None:
    stale = await case.put("source", noise(1000, seed=1))
    await case.put("source", noise(1000, seed=2))
    upload = await begin(case)
    with pytest.raises(SourceChanged):
        await case.store.copy_part(case.bucket, case.key(), upload, 1, case.bucket, stale.key, stale.version, 0, 1000)
    await case.store.abort_upload(case.bucket, case.key(), upload)


# --- attributes, copies, deletions -------------------------------------------------------------------------------------


async def test_attributes_are_replaced_without_touching_the_bytes(case: Case) -> None:
    tags = {"team": "data"} if case.store.limits.tags else None
    before = await case.put("object", b"bytes", Attributes(content_type="text/plain", metadata={"old": "1"}, tags=tags))
    wanted = Attributes(content_type="text/html", cache_control="no-store", metadata={"new": "2"})
    await case.store.update_attributes(case.bucket, case.key(), before.version, wanted)
    after = await case.store.head(case.bucket, case.key())
    assert (after.attributes.content_type, after.attributes.cache_control) == ("text/html", "no-store")
    assert after.attributes.metadata == {"new": "2"}
    assert (after.attributes.tags or None) == tags
    assert await case.get(after) == b"bytes"


async def test_attributes_of_another_version_are_left(case: Case) -> None:
    stale = await case.put("object", b"older")
    await case.put("object", b"what is there", Attributes(metadata={"kept": "yes"}))
    with pytest.raises(PreconditionFailed):
        await case.store.update_attributes(case.bucket, case.key(), stale.version, Attributes(metadata={"new": "2"}))
    assert (await case.store.head(case.bucket, case.key())).attributes.metadata == {"kept": "yes"}


async def test_a_server_side_copy_has_the_bytes_and_the_new_attributes(case: Case) -> None:
    data = noise(100_000)
    source = await case.put("source", data, Attributes(content_type="text/plain", metadata={"old": "1"}))
    wanted = Attributes(content_type="text/html", metadata={"new": "2"})
    done: list[int] = []
    copied = await case.store.copy(case.bucket, source.key, source.version, case.bucket, case.key(), wanted, ABSENT, progress=done.append)
    head = await case.store.head(case.bucket, case.key())
    assert (head.version.token, head.size_bytes) == (copied.version.token, len(data))
    assert (head.attributes.content_type, head.attributes.metadata) == ("text/html", {"new": "2"})
    assert await case.get(head) == data
    assert done == sorted(done)


async def test_a_server_side_copy_keeps_to_its_condition(case: Case) -> None:
    source = await case.put("source", b"new")
    stale = await case.put("object", b"older")
    current = await case.put("object", b"what is there")
    for condition in (ABSENT, Condition.match(stale.version)):
        with pytest.raises(PreconditionFailed):
            await case.store.copy(case.bucket, source.key, source.version, case.bucket, case.key(), Attributes(), condition)
        assert await case.now() == b"what is there"
    here = Condition.match(current.version)
    await case.store.copy(case.bucket, source.key, source.version, case.bucket, case.key(), Attributes(), here)
    assert await case.now() == b"new"


async def test_a_server_side_copy_of_another_version_is_refused(case: Case) -> None:
    stale = await case.put("source", noise(1000, seed=1))
    await case.put("source", noise(1000, seed=2))
    with pytest.raises(SourceChanged):
        await case.store.copy(case.bucket, stale.key, stale.version, case.bucket, case.key(), Attributes(), ABSENT)
    assert await case.listed() == ["source"]


async def test_only_the_version_that_was_named_is_deleted(case: Case) -> None:
    stale = await case.put("object", b"older")
    current = await case.put("object", b"what is there")
    with pytest.raises(PreconditionFailed):
        await case.store.delete(case.bucket, case.key(), stale.version)
    assert await case.now() == b"what is there"
    await case.store.delete(case.bucket, case.key(), current.version)
    with pytest.raises(ObjectNotFound):
        await case.store.head(case.bucket, case.key())
    assert await case.listed() == []


async def test_deleting_an_absent_key_succeeds(case: Case) -> None:
    info = await case.put("object", b"x")
    await case.store.delete(case.bucket, case.key(), info.version)
    await case.store.delete(case.bucket, case.key(), info.version)
    await case.store.delete(case.bucket, case.key("never/was"), info.version)
    assert await case.listed() == []


# --- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
async def test_a_probe_leaves_nothing_behind(case: Case, writable: bool) -> None:
    before = [entry.key async for page in case.store.list_objects(case.bucket) for entry in page]
    await case.store.probe(case.bucket, writable=writable)
    assert [entry.key async for page in case.store.list_objects(case.bucket) for entry in page] == before
    assert [upload async for upload in case.store.list_uploads(case.bucket, RESERVED_PREFIX)] == []
