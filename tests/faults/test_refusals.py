"""What the world refuses: an object rests in a named state, nothing is deleted or half written, and it goes on when it can."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from temporalio.client import Client

from embedded.ports import free_port
from replication.models import ANY, Attributes
from stores.body import Body
from stores.memory import MemoryStore
from tests.e2e.sides import FileSide, GcsSide, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, failure, noise
from tests.lab import Handle, Lab, make_lab
from tests.poll import eventually
from tests.proxy import FaultProxy, Rule, Status

ALWAYS = 1000


async def waits(lab: Lab, handle: Handle) -> bool:
    return await lab.phase(handle) == "waiting"


# --- absence must be proved ------------------------------------------------------------------------------------------


async def test_a_403_on_the_source_is_never_its_absence(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b, deletes="mirror")
    assert rig.reading is not None
    assert rig.writing is not None
    data = noise(100)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        await lab.replicate(key)
        rig.reading.add(Rule(Status(403), method="HEAD", path=rig.of("k"), times=ALWAYS))
        handle = await lab.start(key)
        result = await failure(handle)

    rig.reading.assert_fired()
    assert (result.outcome, result.reason) == ("blocked", "permission-refused")
    assert rig.writing.requests("DELETE", rig.on("k")) == []
    await rig.assert_settled("k", data, handle)


async def test_a_missing_source_bucket_is_never_the_absence_of_its_objects(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b, deletes="mirror")
    assert rig.writing is not None
    data = noise(100)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        await lab.replicate(key)
    rig.document["routes"][0]["source"]["bucket"] = f"gone-{rig.before[3:-1]}"
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await failure(handle)

    assert (result.outcome, result.reason) == ("blocked", "bucket-not-found")
    assert rig.writing.requests("DELETE", rig.on("k")) == []
    await rig.assert_settled("k", data, handle)


# --- the destination refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 2 * PART], ids=["whole", "in-parts"])
async def test_a_missing_destination_bucket_blocks(make_rig: MakeRig, s3: S3Side, s3b: S3Side, size: int) -> None:
    rig = await make_rig(s3, s3b)
    rig.document["routes"][0]["destination"]["bucket"] = f"gone-{rig.before[3:-1]}"
    key = await rig.put("k", noise(size))
    async with rig.worker() as lab:
        result = await failure(await lab.start(key))

    assert (result.outcome, result.reason, result.bytes_copied) == ("blocked", "bucket-not-found", 0)


async def test_wrong_credentials_block(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    rig.document["stores"]["s3b"]["secret_access_key"] = "env:WRONG"
    rig.secrets["WRONG"] = "not-the-secret"
    key = await rig.put("k", noise(100))
    async with rig.worker() as lab:
        result = await failure(await lab.start(key))

    # The answer to a HEAD has no body that could tell a wrong key from a missing permission.
    assert 403 in {seen.status for seen in rig.writing.requests()}
    assert result.outcome == "blocked"
    assert result.reason in ("credentials-refused", "permission-refused")
    await rig.assert_settled("k", None)


class ProxyAt(FaultProxy):
    """A proxy on a port that was known before it listened."""

    def __init__(self, upstream: str, port: int) -> None:
        super().__init__(upstream)
        self._wanted = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._wanted)
        self.port = self._wanted
        return self


async def test_an_endpoint_that_is_down_is_waited_for(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    port = free_port()
    rig.document["stores"]["s3b"]["endpoint"] = f"http://127.0.0.1:{port}"
    data = noise(100)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        handle = await lab.start(key)
        await eventually(lambda: waits(lab, handle), 20.0)
        told = (await lab.progress(handle)).waiting_for
        async with ProxyAt(s3b.settings()["endpoint"], port):
            await handle.signal("check", "the endpoint is back")
            result = await handle.result()

    assert told.startswith("endpoint-unreachable")
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


# --- file systems ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_waited_for_and_leaves_no_half_file(make_rig: MakeRig, s3: S3Side, small_disk: Path) -> None:
    files = FileSide("files", small_disk)
    rig = await make_rig(s3, files)
    data = noise(2 * MIB)
    key = await rig.put("k", data)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 * MIB))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        await eventually(lambda: waits(lab, handle), 20.0)
        told = (await lab.progress(handle)).waiting_for
        half = files.keys()
        ballast.unlink()
        await handle.signal("check", "there is room")
        result = await handle.result()

    assert told.startswith("no-space")
    assert half == set()
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


@pytest.mark.parametrize("size", [100, 2 * MIB], ids=["whole", "in-parts"])
async def test_a_read_only_file_system_blocks(make_rig: MakeRig, s3: S3Side, small_disk: Path, size: int) -> None:
    files = FileSide("files", small_disk)
    rig = await make_rig(s3, files, parts={"part_size": MIB, "one_shot_max": MIB})
    key = await rig.put("k", noise(size))
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with rig.worker() as lab:
        result = await failure(await lab.start(key))

    assert (result.outcome, result.reason) == ("blocked", "destination-read-only")
    await rig.assert_settled("k", None)


# --- keys and sizes that a destination cannot hold -------------------------------------------------------------------


async def test_a_key_that_leads_out_of_the_folder_blocks_and_writes_nothing_outside(
    make_rig: MakeRig, gcs: GcsSide, files: FileSide, tmp_path: Path
) -> None:
    rig = await make_rig(gcs, files)
    key = await rig.put("../../../escaped", b"x")
    async with rig.worker() as lab:
        result = await failure(await lab.start(key))

    assert (result.outcome, result.reason) == ("blocked", "key-unrepresentable")
    escaped = await asyncio.to_thread(lambda: list(tmp_path.rglob("*escaped*")))
    assert escaped == []
    assert files.keys() == set()


async def test_an_object_whose_name_is_a_folder_already_blocks_and_the_first_stays(
    make_rig: MakeRig, gcs: GcsSide, files: FileSide
) -> None:
    rig = await make_rig(gcs, files)
    inner, outer = await rig.put("a/b", b"inner"), await rig.put("a", b"outer")
    async with rig.worker() as lab:
        await lab.replicate(inner)
        result = await failure(await lab.start(outer))

    assert (result.outcome, result.reason) == ("blocked", "key-collision")
    await rig.assert_settled("a/b", b"inner")


async def test_a_folder_whose_name_is_an_object_already_blocks_and_the_first_stays(
    make_rig: MakeRig, gcs: GcsSide, files: FileSide
) -> None:
    rig = await make_rig(gcs, files)
    inner, outer = await rig.put("a/b", b"inner"), await rig.put("a", b"outer")
    async with rig.worker() as lab:
        await lab.replicate(outer)
        result = await failure(await lab.start(inner))

    assert (result.outcome, result.reason) == ("blocked", "key-collision")
    await rig.assert_settled("a", b"outer")


async def test_a_key_that_the_endpoint_would_merge_with_another_blocks(make_rig: MakeRig, gcs: GcsSide, s3: S3Side) -> None:
    rig = await make_rig(gcs, s3)
    plain, doubled = await rig.put("a/b", b"plain"), await rig.put("a//b", b"doubled")
    async with rig.worker() as lab:
        await lab.replicate(plain)
        result = await failure(await lab.start(doubled))

    assert (result.outcome, result.reason) == ("blocked", "key-collision")
    await rig.assert_settled("a/b", b"plain")


async def test_an_object_larger_than_the_destination_holds_blocks_before_a_byte_moves(temporal_client: Client) -> None:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    destination.limits = replace(destination.limits, max_object_size=1000)
    for key, size in (("fits", 1000), ("too-large", 1001)):
        await source.put("src", key, Body.of(noise(size)), Attributes(), ANY)
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        fits = await lab.replicate("fits")
        result = await failure(await lab.start("too-large"))

    assert fits.outcome == "copied"
    assert (result.outcome, result.reason, result.bytes_copied) == ("blocked", "object-too-large", 0)
    assert [entry.key async for page in destination.list_objects("dst") for entry in page] == ["fits"]
