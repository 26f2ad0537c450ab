"""An S3 endpoint that ignores conditions, pins and tags: rclone's server, whose objects are files of a folder."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from embedded.rclone_serve import RcloneServe
from tests.conftest import running
from tests.e2e.conftest import Sides
from tests.e2e.sides import MIB, Properties, S3Side
from tests.passes.conftest import OpenPass
from workflows.start import start_object

OBJECTS = {"small": b"data", "deep/er": b"\0" * 70_000, "a b+c%20ü": b"odd", "large": bytes(range(256)) * (9 * MIB // 256)}


class BareSide(S3Side):
    def __init__(self, server: RcloneServe) -> None:
        super().__init__("bare", server)
        self._folder = server.data / self.bucket

    def put(self, key: str, data: bytes, properties: Properties | None = None) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def sums(self, prefix: str) -> dict[str, str]:
        """The SHA-256 of each object below the prefix, by its file."""
        files = (path for path in (self._folder / prefix).rglob("*") if path.is_file())
        return {str(path.relative_to(self._folder / prefix)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def bare() -> Iterator[BareSide]:
    with running(RcloneServe()) as server:
        side = BareSide(server)
        yield side
        side.close()


async def test_a_pass_copies_there_and_finds_nothing_to_do_afterwards(sides: Sides, bare: BareSide, open_pass: OpenPass) -> None:
    async with open_pass(sides["s3"], bare) as lab:
        for name, data in OBJECTS.items():
            await asyncio.to_thread(sides["s3"].put, lab.before + name, data)
        results = [await lab.reconcile() for _ in range(2)]
        found = await lab.stores.capabilities(bare.name, bare.bucket, writable=True)
    assert [(one.state, one.counters.copied, one.counters.skipped) for one in results] == [("done", 4, 0), ("done", 0, 4)]
    assert bare.sums(lab.after) == {name: hashlib.sha256(data).hexdigest() for name, data in OBJECTS.items()}
    assert (found.fencing, found.conditional_writes, found.conditional_completes, found.pinned_reads) == ("none", False, False, False)


async def test_routes_back_and_forth_are_refused(sides: Sides, bare: BareSide, open_pass: OpenPass) -> None:
    """The route back is fine: its destination has conditional writes."""
    async with open_pass(sides["s3"], bare, back=True) as lab:
        await asyncio.to_thread(sides["s3"].put, lab.before + "here", b"data")
        await asyncio.to_thread(bare.put, lab.after + "there", b"theirs")
        there, back = (route.name for route in lab.settings.routes)
        with pytest.raises(WorkflowFailureError) as refused:
            await (await start_object(lab.client, lab.queue, there, lab.before + "here")).result()
        copied: Any = await (await start_object(lab.client, lab.queue, back, lab.after + "there")).result()
        seen = await asyncio.to_thread(sides["s3"].see, lab.before + "there")

    assert isinstance(refused.value.cause, ApplicationError)
    assert (refused.value.cause.type, "no conditional writes" in refused.value.cause.message) == ("not-supported", True)
    assert copied.outcome == "copied"
    assert seen is not None
    assert seen.sha256 == hashlib.sha256(b"theirs").hexdigest()
    assert set(bare.sums(lab.after)) == {"there"}
