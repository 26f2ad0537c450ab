"""A site with a route for everything that can go well or wrong, one worker process for it, and its real stores."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from embedded.fake_gcs import FakeGcs
from embedded.ports import free_port
from embedded.seaweedfs import SeaweedFS
from embedded.temporal import TemporalServer
from tests.cli.site import RETRIES, Site
from tests.e2e.sides import GcsSide, S3Side, Side
from tests.ledgers import ledger_url

PART = 5 << 20
WORKER = {"retries": RETRIES, "control_slots": 12, "transfer_slots": 2, "streams": 2, "graceful_stop": 5}

MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def s3(seaweed: SeaweedFS) -> Iterator[S3Side]:
    with contextlib.closing(S3Side("s3", seaweed)) as side:
        yield side


@pytest.fixture(scope="session")
def s3b(seaweed_b: SeaweedFS) -> Iterator[S3Side]:
    with contextlib.closing(S3Side("s3b", seaweed_b)) as side:
        yield side


@pytest.fixture(scope="session")
def gcs(fake_gcs: FakeGcs) -> Iterator[GcsSide]:
    with contextlib.closing(GcsSide("gcs", fake_gcs)) as side:
        yield side


def route(name: str, source: Side, store: str, bucket: str, *, before: str = "in/", after: str = "out/", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": {"store": source.name, "bucket": source.bucket, "prefix": before},
        "destination": {"store": store, "bucket": bucket, "prefix": after},
        **more,
    }


@pytest.fixture(scope="session")
def plan_site(temporal_server: TemporalServer, s3: S3Side, s3b: S3Side, tmp_path_factory: pytest.TempPathFactory) -> MakeSite:
    """`plan_site(**sections)`: a site of a task queue of its own with the route `pair`, to be closed by whoever asked for it."""

    def make(**sections: Any) -> Site:
        document = {
            "ledger": ledger_url(),
            "temporal": {"address": temporal_server.address, "task_queue": f"q-{uuid.uuid4().hex}"},
            "stores": {s3.name: s3.settings(), s3b.name: s3b.settings()},
            "routes": [route("pair", s3, s3b.name, s3b.bucket, parts={"part_size": PART, "one_shot_max": PART}, exclude=["*.tmp"])],
            "worker": WORKER,
            **sections,
        }
        return Site(tmp_path_factory.mktemp("site"), document, {**s3.environ(), **s3b.environ()})

    return make


@pytest.fixture
def make_site(plan_site: MakeSite) -> Iterator[MakeSite]:
    """The same; its worker processes end with the test: idle ones poll, and fill the memory."""
    with contextlib.ExitStack() as stack:

        def make(**sections: Any) -> Site:
            return stack.enter_context(contextlib.closing(plan_site(**sections)))

        yield make


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(plan_site: MakeSite, s3: S3Side, s3b: S3Side, gcs: GcsSide, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The routes of this folder, and one worker for all of them.

    `pair` works; `denied` has a wrong secret, `homeless` no bucket, `down` no server; `folder` works, `shelf` lacks its
    bucket's directory and `locked` gets a read-only one.
    """
    disk = tmp_path_factory.mktemp("disk")
    (disk / "inbox").mkdir()
    plain = plan_site()
    document = {
        **plain.document,
        "stores": {
            **plain.document["stores"],
            "intruder": {**s3b.settings(), "secret_access_key": "env:WRONG_SECRET"},
            "nowhere": {**s3b.settings(), "endpoint": f"http://127.0.0.1:{free_port()}"},
            gcs.name: gcs.settings(),
            "disk": {"type": "file", "root": str(disk)},
        },
        "routes": [
            *plain.document["routes"],
            route("denied", s3, "intruder", s3b.bucket, after="denied/"),
            route("homeless", s3, s3b.name, f"gone-{uuid.uuid4().hex}"),
            route("down", s3, "nowhere", "any"),
            route("folder", gcs, "disk", "inbox", before="", after=""),
            route("shelf", gcs, "disk", "shelf", before="", after=""),
            route("locked", s3, "disk", "locked"),
        ],
    }
    full = Site(plain.folder, document, {**plain.environ, "WRONG_SECRET": "not-the-secret"})
    try:
        await full.worker()
        yield full
    finally:
        full.close()


@pytest.fixture
def new_key(s3: S3Side) -> Callable[[bytes], str]:
    """Stores a source object for the S3 routes under a key that no other test has."""

    def put(data: bytes) -> str:
        key = f"in/{uuid.uuid4().hex}"
        s3.put(key, data)
        return key

    return put


@pytest.fixture
def no_key() -> str:
    """A key of the S3 routes that nobody has stored."""
    return f"in/{uuid.uuid4().hex}"
