"""What the S3 store does beyond the contract that every store keeps, on SeaweedFS, on moto and through a fault proxy."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from embedded.moto import MotoServer
from embedded.s3admin import s3_client
from embedded.seaweedfs import SeaweedFS
from replication.errors import (
    BucketNotFound,
    ClockSkewed,
    CredentialsRefused,
    EndpointUnreachable,
    IntegrityMismatch,
    KeyCollision,
    KeyUnrepresentable,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    PermissionRefused,
    PreconditionFailed,
    ServerFault,
    SourceArchived,
    SourceChanged,
    Throttled,
    UploadLost,
)
from replication.keys import PROBE_PREFIX
from replication.limits import GIB, Capabilities
from replication.models import ABSENT, ANY, Attributes, ObjectInfo, Version
from replication.store_settings import S3Settings
from stores import s3list, s3probe
from stores.body import Body
from stores.checksum import crc32c
from stores.registry import build_store
from stores.s3 import S3Store
from stores.signing import Credentials
from tests.poll import eventually
from tests.proxy import Action, DropResponse, FaultProxy, Flip, RewriteHeader, Rule, Status, StripHeader, Truncate, TruncateFixLength

MIB = 1 << 20


def store_at(server: SeaweedFS | MotoServer, endpoint: str | None = None, **options: Any) -> S3Store:
    keys = Credentials(server.access_key, server.secret_key)
    return S3Store("s3", region=server.region, endpoint=endpoint or server.endpoint, **({"credentials": lambda: keys} | options))


def admin(server: SeaweedFS | MotoServer) -> Any:
    return s3_client(server.endpoint, server.access_key, server.secret_key, server.region)


@pytest.fixture
def bucket(seaweed: SeaweedFS) -> Iterator[str]:
    """A bucket of its own, dropped again: each takes several of SeaweedFS's volumes."""
    name = f"s3-{uuid.uuid4().hex}"
    seaweed.create_bucket(name)
    yield name
    client = admin(seaweed)
    client.delete_bucket(Bucket=name)
    client.close()


@pytest.fixture
def moto_bucket(moto_s3: MotoServer) -> str:
    name = f"s3-{uuid.uuid4().hex}"
    moto_s3.create_bucket(name)
    return name


@pytest.fixture
async def store(seaweed: SeaweedFS) -> AsyncIterator[S3Store]:
    made = store_at(seaweed)
    yield made
    await made.close()


@asynccontextmanager
async def broken(server: SeaweedFS | MotoServer, *rules: Rule) -> AsyncIterator[tuple[S3Store, FaultProxy]]:
    """A store behind a proxy with these faults, each of which must have happened in the end."""
    proxy, made = FaultProxy(server.endpoint, *rules), list[S3Store]()
    try:
        async with proxy:
            made.append(store_at(server, proxy.endpoint))
            yield made[0], proxy
    finally:
        for store in made:
            await store.close()
    proxy.assert_fired()


def streamed(data: bytes, *, known: bool = False) -> Body:
    """A body that comes in chunks, of unknown checksum unless `known`."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    return Body(chunks(), len(data), known_crc32c=crc32c(data) if known else None)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def contents(store: S3Store, bucket: str, info: ObjectInfo) -> bytes:
    async with store.read(bucket, info.key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def listed(store: S3Store, bucket: str, **options: Any) -> list[str]:
    return [entry.key async for page in store.list_objects(bucket, **options) for entry in page]


# --- probes ------------------------------------------------------------------------------------------------------------


async def test_a_probe_finds_seaweedfs_fully_fenced_verifying_trailers_and_merging_keys(store: S3Store, bucket: str) -> None:
    found = await store.probe(bucket, writable=True)
    assert found.fencing == "full"
    assert found.pinned_reads
    assert found.server_side_copy
    assert (found.upload_checksum, found.part_checksum) == ("trailer", "response")
    assert not found.versioned
    assert "merges or loses keys" in found.detail


async def test_a_probe_finds_what_moto_lacks(moto_s3: MotoServer, moto_bucket: str) -> None:
    store = store_at(moto_s3)
    found = await store.probe(moto_bucket, writable=True)
    await store.close()
    assert found == Capabilities(
        conditional_writes=True,
        conditional_completes=True,
        conditional_deletes=True,
        pinned_reads=True,
        server_side_copy=True,
        upload_checksum="none",
        part_checksum="none",
    )


async def test_a_probe_of_a_versioned_bucket_leaves_neither_versions_nor_markers(
    seaweed: SeaweedFS, moto_s3: MotoServer, bucket: str, moto_bucket: str
) -> None:
    servers: list[tuple[SeaweedFS | MotoServer, str]] = [(seaweed, bucket), (moto_s3, moto_bucket)]
    for server, name in servers:
        client, store = admin(server), store_at(server)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        assert (await store.probe(name, writable=True)).versioned
        left = client.list_object_versions(Bucket=name)
        client.close()
        await store.close()
        assert "Versions" not in left
        assert "DeleteMarkers" not in left


@pytest.mark.parametrize("versioned", [False, True])
async def test_a_probe_removes_what_a_killed_one_left(
    seaweed: SeaweedFS, bucket: str, moto_s3: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    """moto says of every upload that it began in 2010, so that it is removed at once."""
    servers: list[tuple[SeaweedFS | MotoServer, str, int]] = [(seaweed, bucket, 2), (moto_s3, moto_bucket, 1)]
    for server, name, young in servers:
        with closing(admin(server)) as client:
            if versioned:
                client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            client.put_object(Bucket=name, Key=f"{PROBE_PREFIX}killed/base", Body=b"drayage probe")
            client.create_multipart_upload(Bucket=name, Key=f"{PROBE_PREFIX}killed/part")
            store = store_at(server)
            await store.probe(name, writable=True)
            assert (await left_of_probes(client, store, name)) == young, "it may be at work"
            monkeypatch.setattr(s3probe, "PROBE_ENDS_S", -60.0)
            await store.probe(name, writable=True)
            assert (await left_of_probes(client, store, name)) == 0
            monkeypatch.undo()
            await store.close()


async def left_of_probes(client: Any, store: S3Store, bucket: str) -> int:
    left = client.list_object_versions(Bucket=bucket, Prefix=PROBE_PREFIX)
    uploads = [upload async for upload in store.list_uploads(bucket, PROBE_PREFIX)]
    return len(left.get("Versions", [])) + len(left.get("DeleteMarkers", [])) + len(uploads)


async def test_a_probe_without_writes_claims_only_what_it_saw(store: S3Store, bucket: str) -> None:
    empty = await store.probe(bucket, writable=False)
    assert (empty.fencing, empty.pinned_reads) == ("none", False)
    await store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT)
    assert (await store.probe(bucket, writable=False)).pinned_reads


async def test_an_endpoint_that_ignores_conditions_is_found_out(seaweed: SeaweedFS, bucket: str) -> None:
    """A proxy that answers 200 to every fenced write stands for an endpoint that ignores conditions."""
    taken = Status(200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
    rules = [
        Rule(taken, "after_upstream", method="PUT", path=r"/base$", nth=2, times=2),
        Rule(taken, "after_upstream", method="POST", path="/base.*uploadId="),
    ]
    async with broken(seaweed, *rules) as (store, _):
        found = await store.probe(bucket, writable=True)
    assert (found.conditional_writes, found.conditional_completes, found.fencing) == (False, False, "partial")


async def test_an_endpoint_without_trailers_gets_its_checksum_in_a_header(seaweed: SeaweedFS, bucket: str) -> None:
    data = noise(MIB)
    async with broken(seaweed, Rule(Status(501), path="/trailer$", method="PUT")) as (store, proxy):
        assert (await store.probe(bucket, writable=True)).upload_checksum == "header"
        proxy.add(Rule(Flip(), "mid_request", at=777, path="/k$"))
        with pytest.raises(IntegrityMismatch):
            await store.put(bucket, "k", streamed(data), Attributes(), ABSENT)
        assert await contents(store, bucket, await store.put(bucket, "k", streamed(data), Attributes(), ABSENT)) == data


# --- what a flipped or lost byte does ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["trailer", "header"])
async def test_a_byte_that_flips_on_the_way_in_is_refused_by_the_store(seaweed: SeaweedFS, bucket: str, known: bool) -> None:
    data = noise(3 * MIB)
    async with broken(seaweed) as (store, proxy):
        await store.probe(bucket, writable=True)
        proxy.add(Rule(Flip(), "mid_request", at=MIB, path="/k$"))
        with pytest.raises(IntegrityMismatch):
            await store.put(bucket, "k", streamed(data, known=known), Attributes(), ABSENT)
        assert await listed(store, bucket) == []


@pytest.mark.parametrize(("told", "refused"), [(True, False), (False, True)], ids=["told", "trailer"])
async def test_a_byte_that_flips_in_a_part_is_found(seaweed: SeaweedFS, bucket: str, told: bool, refused: bool) -> None:
    untold = Rule(StripHeader("x-amz-checksum-crc32c"), "after_upstream", path="/part.*partNumber")
    async with broken(seaweed, *([] if told else [untold])) as (store, proxy):
        assert (await store.probe(bucket, writable=True)).wrong_parts_refused is refused
        upload = await store.begin_upload(bucket, "k", Attributes())
        proxy.add(Rule(Flip(), "mid_request", at=MIB, path="partNumber=1"))
        with pytest.raises(IntegrityMismatch):
            await store.put_part(bucket, "k", upload, 1, 0, streamed(noise(3 * MIB)))
        assert len(await store.list_parts(bucket, "k", upload)) == (0 if refused else 1)
        await store.abort_upload(bucket, "k", upload)


async def test_an_endpoint_that_does_not_tell_checksums_of_parts_any_more_gets_them_in_trailers(seaweed: SeaweedFS, bucket: str) -> None:
    async with broken(seaweed) as (store, proxy):
        await store.probe(bucket, writable=True)
        proxy.add(Rule(StripHeader("x-amz-checksum-crc32c"), "after_upstream", path="/k.*partNumber", times=9))
        upload = await store.begin_upload(bucket, "k", Attributes())
        data = noise(MIB)
        with pytest.raises(ServerFault):
            await store.put_part(bucket, "k", upload, 1, 0, streamed(data))
        assert (await store.put_part(bucket, "k", upload, 1, 0, streamed(data))).crc32c == crc32c(data)
        proxy.add(Rule(Flip(), "mid_request", at=777, path="partNumber=2"))
        with pytest.raises(IntegrityMismatch):
            await store.put_part(bucket, "k", upload, 2, 0, streamed(data))
        assert [part.number for part in await store.list_parts(bucket, "k", upload)] == [1]
        await store.abort_upload(bucket, "k", upload)


async def test_an_endpoint_that_knows_no_checksum_of_the_whole_gets_parts_with_trailers(seaweed: SeaweedFS, bucket: str) -> None:
    """It refuses the completion too, but as something that it does not know: what it would do with a wrong whole stays unknown."""
    unknown = Status(400, b"<Error><Code>InvalidRequest</Code><Message>checksum type</Message></Error>")
    async with broken(seaweed, Rule(unknown, method="POST", path="/part.*uploadId=")) as (store, _):
        found = await store.probe(bucket, writable=True)
    assert (found.part_checksum, found.wrong_parts_refused) == ("trailer", True)


async def test_an_endpoint_that_begins_no_upload_with_a_checksum_of_the_whole_gets_parts_with_trailers(
    seaweed: SeaweedFS, bucket: str
) -> None:
    """From the first refusal on, though the probe had found that parts could go without: nothing would vouch for them."""
    unknown = Status(400, b"<Error><Code>InvalidRequest</Code><Message>checksum type</Message></Error>")
    async with broken(seaweed) as (store, proxy):
        assert not (await store.probe(bucket, writable=True)).wrong_parts_refused
        proxy.add(Rule(unknown, method="POST", path="/k.*uploads"))
        upload = await store.begin_upload(bucket, "k", Attributes())
        proxy.add(Rule(Flip(), "mid_request", at=777, path="partNumber=1"))
        with pytest.raises(IntegrityMismatch):
            await store.put_part(bucket, "k", upload, 1, 0, streamed(noise(MIB)))
        assert await store.list_parts(bucket, "k", upload) == [], "refused, not found afterwards"
        part = await store.put_part(bucket, "k", upload, 1, 0, streamed(noise(MIB)))
        info = await store.complete_upload(bucket, "k", upload, [part], Attributes(), ABSENT, crc32c=crc32c(noise(MIB)))
        assert await contents(store, bucket, info) == noise(MIB)


async def test_the_framing_of_a_trailer_is_no_part_of_the_object(store: S3Store, bucket: str) -> None:
    await store.probe(bucket, writable=True)
    data = noise(MIB)
    info = await store.put(bucket, "k", streamed(data), Attributes(content_encoding="gzip"), ABSENT)
    assert (await store.head(bucket, "k")).attributes.content_encoding == "gzip"
    assert info.checksums.crc32c == crc32c(data)
    assert await contents(store, bucket, info) == data


async def test_a_write_whose_answer_is_lost_is_not_repeated(seaweed: SeaweedFS, bucket: str) -> None:
    async with broken(seaweed, Rule(DropResponse(), "after_upstream", method="PUT")) as (store, proxy):
        with pytest.raises(ServerFault):
            await store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT)
        assert len(proxy.requests("PUT")) == 1
        assert (await store.head(bucket, "k")).size_bytes == 1


async def test_a_large_write_whose_fence_holds_says_so(store: S3Store, bucket: str) -> None:
    """The server answers before it has read the body and closes the connection; the answer must not get lost in that."""
    await store.probe(bucket, writable=True)
    await store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT)
    for _ in range(3):
        with pytest.raises(PreconditionFailed):
            await store.put(bucket, "k", streamed(noise(8 * MIB)), Attributes(), ABSENT)


# --- reads -------------------------------------------------------------------------------------------------------------

READ_FAULTS: dict[str, tuple[Rule, type[ObjectError]]] = {
    "cut": (Rule(Truncate(), "mid_response", at=100), ServerFault),
    "cut-and-length-fixed": (Rule(TruncateFixLength(), "mid_response", at=100), IntegrityMismatch),
    "misplaced": (Rule(RewriteHeader("Content-Range", "bytes 1-1000/2000"), "after_upstream"), IntegrityMismatch),
    "other-size": (Rule(RewriteHeader("Content-Range", "bytes 0-999/2001"), "after_upstream"), IntegrityMismatch),
    "no-range": (Rule(StripHeader("Content-Range"), "after_upstream"), IntegrityMismatch),
    "range-ignored": (Rule(Status(200, b"x" * 2000)), IntegrityMismatch),
    "other-version": (Rule(RewriteHeader("ETag", '"another"'), "after_upstream"), SourceChanged),
    "archived": (Rule(Status(403, b"<Error><Code>InvalidObjectState</Code></Error>")), SourceArchived),
    "gone": (Rule(Status(404, b"<Error><Code>NoSuchKey</Code></Error>")), SourceChanged),
    "slow-down": (Rule(Status(503, b"<Error><Code>SlowDown</Code></Error>", (("Retry-After", "7"),))), Throttled),
    "error-page": (Rule(Status(502, b"<html>bad gateway</html>")), ServerFault),
}


@pytest.mark.parametrize("fault", READ_FAULTS)
async def test_a_read_gives_exactly_the_bytes_or_says_what_is_wrong(seaweed: SeaweedFS, bucket: str, fault: str) -> None:
    broken_answer, expected = READ_FAULTS[fault]
    rule = Rule(broken_answer.do, broken_answer.when, broken_answer.at, method="GET", path="/k$")
    async with broken(seaweed, rule) as (store, _):
        info = await store.put(bucket, "k", Body.of(noise(2000)), Attributes(), ABSENT)
        with pytest.raises(expected) as raised:
            async with store.read(bucket, "k", pin=info.version, offset=0, length=1000) as chunks:
                assert len(b"".join([chunk async for chunk in chunks])) <= 1000
        assert raised.value.retry_after_s == (7.0 if fault == "slow-down" else None)


async def test_a_pinned_version_is_read_although_another_is_current(seaweed: SeaweedFS, store: S3Store, bucket: str) -> None:
    client = admin(seaweed)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    first = await store.put(bucket, "k", Body.of(b"first"), Attributes(), ABSENT)
    second = await store.put(bucket, "k", Body.of(b"second"), Attributes(), ANY)
    assert first.version.id != second.version.id
    assert await contents(store, bucket, first) == b"first"
    copied = await store.copy(bucket, "k", first.version, bucket, "copy", Attributes(), ABSENT)
    assert await contents(store, bucket, await store.head(bucket, copied.key)) == b"first"
    gone = Version(5, first.version.etag, "0" * 32)
    with pytest.raises(SourceChanged):
        await contents(store, bucket, ObjectInfo("k", gone))


# --- absence and refusals ------------------------------------------------------------------------------------------------


async def test_a_stream_of_absent_keys_proves_its_bucket_once(seaweed: SeaweedFS, bucket: str) -> None:
    async with broken(seaweed) as (store, proxy):
        for number in range(5):
            with pytest.raises(ObjectNotFound):
                await store.head(bucket, f"absent-{number}")
        assert len(proxy.requests("HEAD")) == 5
        assert len(proxy.requests("GET")) == 1


async def test_a_wall_clock_that_is_set_back_proves_no_bucket(
    moto_s3: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.s3.BUCKET_SEEN_S", 0.0)
    off_s = [0.0]
    store = store_at(moto_s3, clock=lambda: time.time() + off_s[0])
    with pytest.raises(ObjectNotFound):
        await store.head(moto_bucket, "absent")
    with closing(admin(moto_s3)) as client:
        client.delete_bucket(Bucket=moto_bucket)
    off_s[0] = -600.0
    with pytest.raises(BucketNotFound):
        await store.head(moto_bucket, "absent")
    await store.close()


async def test_a_404_for_a_key_that_is_listed_proves_nothing(seaweed: SeaweedFS, bucket: str) -> None:
    client = admin(seaweed)
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    client.close()
    async with broken(seaweed, Rule(Status(404), method="HEAD")) as (store, _):
        with pytest.raises(ServerFault):
            await store.head(bucket, "k")


@pytest.mark.parametrize(
    ("code", "expected"),
    [("AccessDenied", PermissionRefused), ("ExpiredToken", CredentialsRefused), ("RequestTimeTooSkewed", ClockSkewed)],
)
async def test_a_refused_head_is_explained_by_a_get(seaweed: SeaweedFS, bucket: str, code: str, expected: type[ObjectError]) -> None:
    told = Status(403, f"<Error><Code>{code}</Code></Error>".encode())
    async with broken(seaweed, Rule(Status(403), method="HEAD"), Rule(told, method="GET")) as (store, _):
        with pytest.raises(expected):
            await store.head(bucket, "k")


async def test_a_refused_list_is_never_absence(seaweed: SeaweedFS, bucket: str) -> None:
    denied = Status(403, b"<Error><Code>AccessDenied</Code></Error>")
    async with broken(seaweed, Rule(denied, path="list-type")) as (store, _):
        with pytest.raises(PermissionRefused):
            await store.head(bucket, "absent")


@pytest.mark.parametrize("wrong", ["secret", "key", "clock"])
async def test_a_refusal_names_its_cause(seaweed: SeaweedFS, bucket: str, wrong: str) -> None:
    keys = Credentials("nobody" if wrong == "key" else seaweed.access_key, "wrong" if wrong == "secret" else seaweed.secret_key)
    store = store_at(seaweed, credentials=lambda: keys, clock=lambda: time.time() - (3600 if wrong == "clock" else 0))
    expected = ClockSkewed if wrong == "clock" else CredentialsRefused
    with pytest.raises(expected):
        await store.head(bucket, "k")
    with pytest.raises(expected):
        await store.probe(bucket, writable=False)
    await store.close()


async def test_the_default_chain_gives_credentials(seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    store = store_at(seaweed, credentials=None)
    assert await listed(store, bucket) == []
    await store.close()


async def test_a_chain_without_credentials_is_a_refusal(
    seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = store_at(seaweed, credentials=None)
    with pytest.raises(CredentialsRefused):
        await listed(store, bucket)
    await store.close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(403, "AccessDenied", CredentialsRefused), (503, "ServiceUnavailable", EndpointUnreachable), (0, "", EndpointUnreachable)],
)
async def test_credentials_that_cannot_be_had_now_are_no_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, status: int, code: str, expected: type[ObjectError]
) -> None:
    async def sts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = f"<ErrorResponse><Error><Code>{code}</Code></Error><RequestId>1</RequestId></ErrorResponse>".encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        writer.close()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("a token")
    async with await asyncio.start_server(sts, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1] if status else 9
        for name, value in {
            "AWS_WEB_IDENTITY_TOKEN_FILE": tmp_path / "token",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x",
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "none",
            "AWS_CONFIG_FILE": tmp_path / "none",
        }.items():
            monkeypatch.setenv(name, str(value))
        store = S3Store("s3", region="us-east-1", endpoint="http://127.0.0.1:9")
        with pytest.raises(expected):
            await store.head("b", "k")
        await store.close()


async def test_keys_that_are_replaced_in_their_file_are_read_again(seaweed: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old")
    settings = S3Settings(
        type="s3", endpoint=seaweed.endpoint, region=seaweed.region, access_key_id="env:KEY", secret_access_key=f"file:{secret}"
    )
    store = build_store("s3", settings, {"KEY": seaweed.access_key})
    with pytest.raises(CredentialsRefused):
        await store.head(bucket, "k")
    secret.write_text(seaweed.secret_key)
    with pytest.raises(ServerFault, match="SignatureDoesNotMatch"):
        await store.head(bucket, "k")
    with pytest.raises(ObjectNotFound):
        await store.head(bucket, "k")
    secret.unlink()
    with pytest.raises(ObjectNotFound):
        await store.head(bucket, "k")
    await store.close()


async def test_keys_that_a_program_renews_for_the_default_chain_are_found(
    seaweed: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    shared = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))

    def renew(secret: str) -> None:
        shared.write_text(f"[default]\naws_access_key_id = {seaweed.access_key}\naws_secret_access_key = {secret}\n")

    await asyncio.to_thread(renew, "of yesterday")
    store = store_at(seaweed, credentials=None)

    async def read() -> None:
        async with store.read(bucket, "k", pin=Version(4, "e"), offset=0, length=4):
            pass

    for _ in range(2):
        with pytest.raises(CredentialsRefused):
            await read()
    await asyncio.to_thread(renew, seaweed.secret_key)
    with pytest.raises(ServerFault, match="SignatureDoesNotMatch"):
        await read()
    with pytest.raises(SourceChanged):
        await read()
    await asyncio.to_thread(shared.unlink)
    with pytest.raises(SourceChanged):
        await read()
    await store.close()


# --- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a//b", KeyCollision),
        ("/lead", KeyCollision),
        ("win\\dows", KeyCollision),
        ("dir/", KeyUnrepresentable),
        ("a/../b", KeyUnrepresentable),
        ("a/.uploads/b", KeyUnrepresentable),
        ("a.versions/b", KeyUnrepresentable),
    ],
)
async def test_a_key_that_the_endpoint_would_merge_is_refused_before_a_request(
    seaweed: SeaweedFS, bucket: str, key: str, expected: type[ObjectError]
) -> None:
    async with broken(seaweed) as (store, proxy):
        await store.probe(bucket, writable=True)
        before = len(proxy.log)
        with pytest.raises(expected):
            await store.put(bucket, key, Body.of(b"x"), Attributes(), ANY)
        with pytest.raises(expected):
            await store.begin_upload(bucket, key, Attributes())
        assert len(proxy.log) == before


async def test_an_endpoint_that_was_not_probed_is_asked_before_the_first_odd_key(store: S3Store, bucket: str) -> None:
    there = await store.put(bucket, "a/b", Body.of(b"first"), Attributes(), ABSENT)
    with pytest.raises(KeyCollision):
        await store.put(bucket, "a//b", Body.of(b"second"), Attributes(), ANY)
    assert await contents(store, bucket, there) == b"first"


async def test_a_folder_in_the_way_of_a_new_object_is_a_collision_and_no_endless_race(store: S3Store, bucket: str) -> None:
    await store.put(bucket, "a/b", Body.of(b"x"), Attributes(), ABSENT)
    with pytest.raises(KeyCollision, match="'a/'"):
        await store.put(bucket, "a", Body.of(b"x"), Attributes(), ABSENT)
    await store.put(bucket, "c", Body.of(b"x"), Attributes(), ABSENT)
    with pytest.raises(PreconditionFailed):
        await store.put(bucket, "c", Body.of(b"x"), Attributes(), ABSENT)


# --- listings ----------------------------------------------------------------------------------------------------------


def tree(count: int) -> list[str]:
    """Keys whose folders and objects sort differently by bytes and by folder."""
    draw = random.Random(count)
    names = ["a", "a-", "a-b", "a.b", "a b", "b", "b!", "b0", "ba"]
    keys = {"/".join(draw.choice(names) for _ in range(draw.randint(1, 4))) for _ in range(count)}
    return sorted(keys, key=str.encode)


@pytest.mark.parametrize("page_size", [2, 5, 1000])
async def test_an_endpoint_that_lists_by_folder_is_listed_in_byte_order_from_every_key_on(
    store: S3Store, bucket: str, page_size: int
) -> None:
    keys = tree(60)
    assert keys != sorted(keys, key=lambda key: key.replace("/", "\0"))
    for key in keys:  # one by one: SeaweedFS 4.48 sometimes loses `a/b` when `a` is put in the same moment
        await store.put(bucket, key, Body.of(b"x"), Attributes(), ANY)
    assert await listed(store, bucket, page_size=page_size) == keys
    for after in keys[:: 1 if page_size == 5 else 10]:
        assert await listed(store, bucket, page_size=page_size, start_after=after) == [key for key in keys if key > after]
        below = after.rpartition("/")[0]
        expected = [key for key in keys if key.startswith(below) and key > after]
        assert await listed(store, bucket, page_size=page_size, prefix=below, start_after=after) == expected


@pytest.mark.parametrize(
    ("keys", "requests"),
    [
        # a page of all; the folders of the bucket; what stands in `o/`, from the last key on that is known
        ([f"o/{number}" for number in range(9)], 3),
        # a page of all; the folders of the bucket; `c/`, of which the first page shows one key, and then two pages of it alone
        (["a/1", "a/2", "b/1", "b-/1", "c/1", "c/2", "c/3", "c/4", "c/5", "c/6"], 4),
    ],
)
async def test_what_a_page_has_shown_is_not_asked_for_again(seaweed: SeaweedFS, bucket: str, keys: list[str], requests: int) -> None:
    async with broken(seaweed) as (store, proxy):
        for key in keys:
            await store.put(bucket, key, Body.of(b"x"), Attributes(), ABSENT)
        assert await listed(store, bucket) == sorted(keys)  # it is known to list by folder from here on
        before = len(proxy.requests(path="list-type"))
        assert await listed(store, bucket, page_size=5) == sorted(keys)
        assert len(proxy.requests(path="list-type")) - before == requests


async def test_who_takes_many_pages_finds_the_next_one_asked_for(moto_s3: MotoServer, moto_bucket: str) -> None:
    keys = [f"{number}" for number in range(8)]
    async with broken(moto_s3) as (store, proxy):
        for key in keys:
            await store.put(moto_bucket, key, Body.of(b"x"), Attributes(), ANY)

        before = len(proxy.requests(path="list-type"))

        def asked(times: int) -> Callable[[], bool]:
            return lambda: len(proxy.requests(path="list-type")) - before == times

        pages = store.list_objects(moto_bucket, page_size=2)
        assert isinstance(pages, AsyncGenerator)
        for requests in (1, 3, 4):
            assert len(await anext(pages)) == 2
            assert await eventually(asked(requests))
        await pages.aclose()
        assert await listed(store, moto_bucket, page_size=2) == keys
        assert asked(8)()


async def test_an_unknown_endpoint_that_lists_by_folder_is_refused_once_and_then_listed_right(seaweed: SeaweedFS, bucket: str) -> None:
    keys = ["a-b", "a/b"]
    anonymous = Rule(RewriteHeader("Server", "store"), "after_upstream", times=1000)
    async with broken(seaweed, anonymous) as (store, _):
        for key in keys:
            await store.put(bucket, key, Body.of(b"x"), Attributes(), ABSENT)
        with pytest.raises(ServerFault):
            await listed(store, bucket)
        assert await listed(store, bucket) == keys


def page_of(*keys: str, token: str = "") -> bytes:
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-01-02T03:04:05Z</LastModified></Contents>"
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult>{''.join(map(entry.format, keys))}{more}</ListBucketResult>".encode()


BROKEN_LISTINGS: dict[str, list[bytes]] = {
    "unsorted": [page_of("b", "a")],
    "duplicate": [page_of("a", "a")],
    "goes-back": [page_of("a", "b", token="1"), page_of("b", "c")],
    "token-loop": [page_of("a", token="1"), page_of("b", token="1")],
    "no-token": [page_of("a") .replace(b"</ListBucketResult>", b"<IsTruncated>true</IsTruncated></ListBucketResult>")],
    "empty-without-end": [page_of(token=f"{number}") for number in range(1, 6)],
    "error-page": [b"<html>welcome</html>"],
    "empty": [b""],
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN_LISTINGS)
async def test_a_broken_listing_is_a_fault_and_never_the_end(
    seaweed: SeaweedFS, bucket: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3list, "EMPTY_PAGES", 4)
    rules = [Rule(Status(200, page), path="list-type", nth=number) for number, page in enumerate(BROKEN_LISTINGS[fault], 1)]
    async with broken(seaweed, *rules) as (store, _):
        with pytest.raises(ServerFault):
            await listed(store, bucket)


async def test_an_empty_page_that_leads_on_is_not_the_end(seaweed: SeaweedFS, bucket: str) -> None:
    pages = [page_of(token="1"), page_of("a", token="2"), page_of(token="3"), page_of(token="4"), page_of("b")]
    async with broken(seaweed, *(Rule(Status(200, page), path="list-type", nth=n) for n, page in enumerate(pages, 1))) as (store, _):
        assert await listed(store, bucket) == ["a", "b"]


async def test_the_page_that_a_listing_goes_on_with_is_the_one_that_its_parser_finds(seaweed: SeaweedFS, bucket: str) -> None:
    twice = page_of("b", token="2").replace(b"<Contents>", b"<NextContinuationToken>other</NextContinuationToken><Contents>")
    rules = [Rule(Status(200, page_of("a", token="1")), path="list-type"), Rule(Status(200, twice), path="continuation-token=1")]
    async with broken(seaweed, *rules, Rule(Status(200, page_of("c")), path="continuation-token=2")) as (store, _):
        assert await listed(store, bucket) == ["a", "b", "c"]


async def test_a_listing_holds_only_what_was_asked_for(seaweed: SeaweedFS, bucket: str) -> None:
    async with broken(seaweed, Rule(Status(200, page_of("outside")), path="list-type")) as (store, _):
        with pytest.raises(ServerFault):
            await listed(store, bucket, prefix="in")


# --- attributes --------------------------------------------------------------------------------------------------------


async def test_tags_are_asked_for_only_where_there_are_some(seaweed: SeaweedFS, bucket: str) -> None:
    async with broken(seaweed) as (store, proxy):
        await store.put(bucket, "plain", Body.of(b"x"), Attributes(), ABSENT)
        await store.put(bucket, "tagged", Body.of(b"x"), Attributes(tags={"a": "1"}), ABSENT)
        assert (await store.head(bucket, "plain")).attributes.tags == {}
        assert (await store.head(bucket, "tagged")).attributes.tags == {"a": "1"}
        assert [seen.target for seen in proxy.requests(path="tagging")] == [f"/{bucket}/tagged?tagging="]


async def test_tags_are_found_on_an_endpoint_that_does_not_count_them(seaweed: SeaweedFS, bucket: str) -> None:
    hidden: list[Action] = [StripHeader("x-amz-tagging-count"), RewriteHeader("Server", "store")]
    rules = [Rule(action, "after_upstream", method="HEAD", times=100) for action in hidden]
    async with broken(seaweed, *rules) as (store, _):
        await store.put(bucket, "plain", Body.of(b"x"), Attributes(), ABSENT)
        await store.put(bucket, "tagged", Body.of(b"x"), Attributes(tags={"a": "1"}), ABSENT)
        for _ in range(2):
            assert (await store.head(bucket, "plain")).attributes.tags == {}
            assert (await store.head(bucket, "tagged")).attributes.tags == {"a": "1"}


@pytest.mark.parametrize(("code", "found"), [("NoSuchTagSet", True), ("", False)])
async def test_an_object_whose_tags_are_not_found_is_not_absent(seaweed: SeaweedFS, bucket: str, code: str, found: bool) -> None:
    """Wasabi, OBS and versitygw answer so for an object without tags."""
    body = f"<Error><Code>{code}</Code><Message>The TagSet does not exist</Message></Error>".encode() if code else b""
    hidden = Rule(RewriteHeader("Server", "store"), "after_upstream", method="HEAD", times=100)
    async with broken(seaweed, hidden, Rule(Status(404, body), path="tagging", times=100)) as (store, _):
        await store.put(bucket, "plain", Body.of(b"x"), Attributes(), ABSENT)
        if found:
            assert (await store.head(bucket, "plain")).attributes.tags == {}
        else:
            with pytest.raises(ServerFault):
                await store.head(bucket, "plain")


async def test_tags_are_replaced_or_left_as_asked(store: S3Store, bucket: str) -> None:
    before = await store.put(bucket, "k", Body.of(b"x"), Attributes(tags={"a": "1"}), ABSENT)
    await store.update_attributes(bucket, "k", before.version, Attributes(cache_control="no-store"))
    assert (await store.head(bucket, "k")).attributes.tags == {"a": "1"}
    await store.update_attributes(bucket, "k", before.version, Attributes(tags={"b": "2"}))
    assert (await store.head(bucket, "k")).attributes.tags == {"b": "2"}
    await store.update_attributes(bucket, "k", before.version, Attributes(tags={}))
    assert (await store.head(bucket, "k")).attributes.tags == {}


async def test_attributes_of_an_object_too_large_for_one_copy_are_not_supported(store: S3Store, bucket: str) -> None:
    with pytest.raises(NotSupported):
        await store.update_attributes(bucket, "k", Version(5 * GIB + 1, "e"), Attributes())


# --- uploads -----------------------------------------------------------------------------------------------------------


async def complete(store: S3Store, bucket: str, data: bytes, *, crc: int | None = None) -> ObjectInfo:
    upload = await store.begin_upload(bucket, "k", Attributes())
    part = await store.put_part(bucket, "k", upload, 1, 0, Body.of(data))
    return await store.complete_upload(bucket, "k", upload, [part], Attributes(), ABSENT, crc32c=crc32c(data) if crc is None else crc)


async def test_an_upload_is_enforced_by_and_tells_its_checksum(store: S3Store, bucket: str) -> None:
    info = await complete(store, bucket, b"data")
    assert info.checksums.crc32c == crc32c(b"data")
    assert (await store.head(bucket, "k")).checksums.crc32c == crc32c(b"data")
    await store.delete(bucket, "k", info.version)
    with pytest.raises(IntegrityMismatch):
        await complete(store, bucket, b"data", crc=crc32c(b"data") ^ 1)


async def test_an_endpoint_that_refuses_checksums_of_uploads_gets_none(seaweed: SeaweedFS, bucket: str) -> None:
    unknown = Status(400, b"<Error><Code>InvalidRequest</Code></Error>")
    async with broken(seaweed, Rule(unknown, method="POST", path=r"\?uploads=")) as (store, proxy):
        info = await complete(store, bucket, b"data")
        assert await contents(store, bucket, info) == b"data"
        assert len(proxy.requests("POST", r"\?uploads=")) == 2
        await store.begin_upload(bucket, "other", Attributes())
        assert len(proxy.requests("POST", r"\?uploads=")) == 3


COMMITS: dict[str, tuple[Status, type[ObjectError]]] = {
    "fault": (Status(200, b" \n \n<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"), ServerFault),
    "slow-down": (Status(200, b"<Error><Code>SlowDown</Code></Error>"), Throttled),
    "unknown-upload": (Status(404, b"<Error><Code>NoSuchUpload</Code></Error>"), UploadLost),
    "conflict": (Status(409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"), PreconditionFailed),
    "nothing": (Status(200, b""), ServerFault),
}


@pytest.mark.parametrize("answer", COMMITS)
async def test_a_complete_counts_only_with_its_result(seaweed: SeaweedFS, bucket: str, answer: str) -> None:
    status, expected = COMMITS[answer]
    async with broken(seaweed, Rule(status, method="POST", path="uploadId")) as (store, proxy):
        with pytest.raises(expected):
            await complete(store, bucket, b"data")
        assert len(proxy.requests("POST", "uploadId")) == 1


async def test_whitespace_before_the_result_of_a_complete_is_waiting(seaweed: SeaweedFS, bucket: str) -> None:
    result = b" \n \n<?xml version='1.0'?><CompleteMultipartUploadResult><ETag>e-1</ETag></CompleteMultipartUploadResult>"
    async with broken(seaweed, Rule(Status(200, result), "after_upstream", method="POST", path="uploadId")) as (store, _):
        assert (await complete(store, bucket, b"data")).version.etag == "e-1"


async def test_a_copy_that_failed_with_status_200_failed(seaweed: SeaweedFS, bucket: str) -> None:
    error = Status(200, b"<Error><Code>InternalError</Code></Error>")
    async with broken(seaweed, Rule(error, method="PUT", path="/copy$")) as (store, _):
        info = await store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT)
        with pytest.raises(ServerFault):
            await store.copy(bucket, "k", info.version, bucket, "copy", Attributes(), ABSENT)


async def test_an_abort_is_repeated_until_the_store_has_forgotten_the_upload(seaweed: SeaweedFS, bucket: str) -> None:
    late = Status(200, b"<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>")
    async with broken(seaweed, Rule(late, method="GET", path="uploadId", times=2)) as (store, proxy):
        upload = await store.begin_upload(bucket, "k", Attributes())
        await store.abort_upload(bucket, "k", upload)
        assert len(proxy.requests("DELETE", "uploadId")) == 3


async def test_a_part_that_was_sent_again_is_listed_once_as_the_newest(store: S3Store, bucket: str) -> None:
    upload = await store.begin_upload(bucket, "k", Attributes())
    await store.put_part(bucket, "k", upload, 1, 0, Body.of(b"older"))
    await store.put_part(bucket, "k", upload, 1, 0, Body.of(b"newer"))
    assert [part.number for part in await store.list_parts(bucket, "k", upload)] == [1]
    await store.abort_upload(bucket, "k", upload)


async def test_a_fence_of_a_copy_tells_the_source_from_the_destination(store: S3Store, bucket: str) -> None:
    stale = await store.put(bucket, "source", Body.of(b"older"), Attributes(), ABSENT)
    current = await store.put(bucket, "source", Body.of(b"newer"), Attributes(), ANY)
    await store.put(bucket, "there", Body.of(b"x"), Attributes(), ABSENT)
    copy: Callable[[Version, str], Any] = lambda pin, key: store.copy(bucket, "source", pin, bucket, key, Attributes(), ABSENT)  # noqa: E731
    with pytest.raises(SourceChanged):
        await copy(stale.version, "new")
    with pytest.raises(PreconditionFailed):
        await copy(current.version, "there")


async def test_an_unfenced_delete_looks_once_more(moto_s3: MotoServer, moto_bucket: str) -> None:
    """moto fences deletes; the proxy's 204 to the probe's conditional delete stands for an endpoint that does not."""
    async with broken(moto_s3, Rule(Status(204), method="DELETE", path="/base$")) as (store, proxy):
        assert not (await store.probe(moto_bucket, writable=True)).conditional_deletes
        stale = await store.put(moto_bucket, "k", Body.of(b"older"), Attributes(), ABSENT)
        current = await store.put(moto_bucket, "k", Body.of(b"newer"), Attributes(), ANY)
        with pytest.raises(PreconditionFailed):
            await store.delete(moto_bucket, "k", stale.version)
        assert proxy.requests("DELETE", "/k$") == []
        await store.delete(moto_bucket, "k", current.version)
        assert await listed(store, moto_bucket) == []


async def test_a_delete_before_any_probe_looks_once_more(moto_s3: MotoServer, moto_bucket: str) -> None:
    """What a worker does first after its start may be a deletion, when nothing is known of the endpoint yet."""
    async with broken(moto_s3, Rule(StripHeader("if-match"), method="DELETE", path="/k$")) as (store, proxy):
        stale = await store.put(moto_bucket, "k", Body.of(b"older"), Attributes(), ABSENT)
        current = await store.put(moto_bucket, "k", Body.of(b"somebody's"), Attributes(), ANY)
        with pytest.raises(PreconditionFailed):
            await store.delete(moto_bucket, "k", stale.version)
        assert await listed(store, moto_bucket) == ["k"]
        await store.delete(moto_bucket, "k", current.version)
        assert len(proxy.requests("DELETE", "/k$")) == 1


@pytest.mark.parametrize("page", [b"<html>Welcome to our network</html>", b"<Error><Code>InternalError</Code></Error>", b""])
async def test_a_page_in_the_place_of_an_answer_is_no_commit(seaweed: SeaweedFS, bucket: str, page: bytes) -> None:
    async with broken(seaweed, Rule(Status(200, page), method="PUT", path="/k$")) as (store, _):
        with pytest.raises(ServerFault):
            await store.put(bucket, "k", Body.of(b"x"), Attributes(), ABSENT)
        assert await listed(store, bucket) == []
