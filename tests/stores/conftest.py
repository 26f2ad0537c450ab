"""Every store behind one fixture: `case` is a store on its real server, with a bucket of its own."""

from __future__ import annotations

import json
import shutil
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replication.models import ANY, Attributes, Condition, ObjectInfo
from stores.base import Store
from stores.body import Body
from stores.memory import MemoryStore
from tests.stores.divergences import DIVERGENCES

SUBJECTS = ["memory", "files", "s3-seaweed", "s3-moto", "gcs-fake"]


@dataclass(frozen=True)
class Case:
    """A store under test, a bucket in it, and a prefix that no other test uses."""

    subject: str
    store: Store
    bucket: str
    prefix: str

    def key(self, name: str = "object") -> str:
        return self.prefix + name

    async def put(self, name: str, data: bytes, attributes: Attributes | None = None, condition: Condition = ANY) -> ObjectInfo:
        return await self.store.put(self.bucket, self.key(name), Body.of(data), attributes or Attributes(), condition)

    async def get(self, info: ObjectInfo, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of the version in `info`, or of a range of it."""
        length = info.size_bytes - offset if length is None else length
        if length == 0:
            return b""
        async with self.store.read(self.bucket, info.key, pin=info.version, offset=offset, length=length) as chunks:
            return b"".join([bytes(chunk) async for chunk in chunks])

    async def now(self, name: str = "object") -> bytes:
        """What stands under the key, whatever version it is."""
        return await self.get(await self.store.head(self.bucket, self.key(name)))

    async def listed(self, prefix: str = "", **options: Any) -> list[str]:
        pages = self.store.list_objects(self.bucket, self.prefix + prefix, **options)
        return [entry.key.removeprefix(self.prefix) async for page in pages for entry in page]


# --- buckets: one for each server and session --------------------------------------------------------------------------


def _bucket_name() -> str:
    return f"conformance-{uuid.uuid4().hex[:12]}"


def _s3_bucket(server: Any) -> str:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    name = _bucket_name()
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture(scope="session")
def seaweed_bucket(request: pytest.FixtureRequest) -> str:
    return _s3_bucket(request.getfixturevalue("seaweed"))


@pytest.fixture(scope="session")
def moto_bucket(request: pytest.FixtureRequest) -> str:
    return _s3_bucket(request.getfixturevalue("moto_s3"))


@pytest.fixture(scope="session")
def gcs_bucket(request: pytest.FixtureRequest) -> str:
    name = _bucket_name()
    url = f"{request.getfixturevalue('fake_gcs').endpoint}/storage/v1/b?project=conformance"
    call = urllib.request.Request(url, json.dumps({"name": name}).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=10):
        return name


@pytest.fixture(scope="session")
def file_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("file-store")
    yield root
    shutil.rmtree(root, ignore_errors=True)


# --- stores: a new one for each test -----------------------------------------------------------------------------------


def _memory(request: pytest.FixtureRequest) -> tuple[Store, str]:
    store = MemoryStore("memory")
    store.create_bucket("conformance")
    return store, "conformance"


def _files(request: pytest.FixtureRequest) -> tuple[Store, str]:
    from stores.files import FileStore

    root: Path = request.getfixturevalue("file_root")
    bucket = _bucket_name()
    (root / bucket).mkdir()
    return FileStore("files", root=root), bucket


def _s3(server_fixture: str, bucket_fixture: str) -> Callable[[pytest.FixtureRequest], tuple[Store, str]]:
    def make(request: pytest.FixtureRequest) -> tuple[Store, str]:
        from stores.s3 import S3Store
        from stores.signing import Credentials

        server = request.getfixturevalue(server_fixture)
        keys = Credentials(server.access_key, server.secret_key)
        store = S3Store("s3", region=server.region, endpoint=server.endpoint, credentials=lambda: keys)
        return store, request.getfixturevalue(bucket_fixture)

    return make


def _gcs(request: pytest.FixtureRequest) -> tuple[Store, str]:
    from stores.gcs import GcsStore

    store = GcsStore("gcs", project=None, endpoint=request.getfixturevalue("fake_gcs").endpoint, anonymous=True)
    return store, request.getfixturevalue("gcs_bucket")


MAKERS: dict[str, Callable[[pytest.FixtureRequest], tuple[Store, str]]] = {
    "memory": _memory,
    "files": _files,
    "s3-seaweed": _s3("seaweed", "seaweed_bucket"),
    "s3-moto": _s3("moto_s3", "moto_bucket"),
    "gcs-fake": _gcs,
}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> str:
    """The store's name in the tables; a divergence of its test server makes the test a strict expected failure."""
    name: str = request.param
    test = request.node.name.replace(f"[{name}-", "[").replace(f"-{name}]", "]").replace(f"[{name}]", "")
    if reason := DIVERGENCES[name].get(test):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return name


@pytest.fixture
async def case(subject: str, request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    store, bucket = MAKERS[subject](request)
    yield Case(subject, store, bucket, f"{uuid.uuid4().hex[:12]}/")
    await store.close()
