"""What a reader of the destination sees while manifests and what they name arrive in any order and workers are killed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from embedded.seaweedfs import SeaweedFS
from tests.dss import Dss
from tests.e2e.sides import S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import Rig
from tests.poll import eventually

WAIT = {"poll": "2s", "poll_max": "5s", "deadline": "1h"}


@pytest.fixture
def elsewhere(seaweed_b: SeaweedFS, s3: S3Side, request: pytest.FixtureRequest) -> Iterator[S3Side]:
    """Another endpoint, its bucket named as at the source or otherwise."""
    with contextlib.closing(S3Side("elsewhere", seaweed_b)) as side:
        if request.param == "equal bucket names":
            side.bucket = s3.bucket
            side.client.create_bucket(Bucket=side.bucket)
        yield side


class Reader:
    """Polls the destination and looks at everything that a manifest names as soon as it sees the manifest."""

    def __init__(self, rig: Rig, groups: list[Dss]) -> None:
        self._rig = rig
        self._names = {manifest: named for group in groups for manifest, named in group.names.items()}
        self.seen: set[str] = set()
        self.dangling: list[str] = []

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.05)

    def has_seen(self, count: int) -> bool:
        return len(self.seen) >= count

    def look(self) -> None:
        after = self._rig.after
        for key in self._rig.destination.keys() - {after + known for known in self.seen}:
            name = key.removeprefix(after)
            if not key.startswith(after):
                continue
            self.seen.add(name)
            if name in self._names and not self._exists(after + self._names[name]):
                self.dangling.append(f"{name} names {self._names[name]}")

    def _exists(self, key: str) -> bool:
        side: Any = self._rig.destination
        try:
            side.client.head_object(Bucket=side.bucket, Key=key)
        except ClientError:
            return False
        return True


async def commits(rig: Rig, groups: list[Dss], seed: int) -> list[Any]:
    """Writes every object and tells of it, in random order: manifests before what they name too."""
    keys = [(group, key) for group in groups for key in group.chain]
    random.Random(seed).shuffle(keys)
    handles = []
    for group, key in keys:
        await asyncio.to_thread(rig.source.put, rig.before + key, group.content(key))
        handles.append(await rig.lab.start(rig.before + key, signal=True))
    return handles


async def dangling(rig: Rig, groups: list[Dss], kills: int) -> list[str]:
    """What a reader ever saw named by a manifest and not there, while workers are killed."""
    reader = Reader(rig, groups)
    reading = asyncio.create_task(reader.run())
    workers = [await rig.process(), await rig.process()]
    writing = asyncio.create_task(commits(rig, groups, seed=kills))
    total = sum(len(group.chain) for group in groups)
    for number in range(kills):
        enough = (number + 1) * total // (kills + 2)
        await eventually(partial(reader.has_seen, enough), 120)
        workers.pop(0).kill()
        workers.append(await rig.process())
    await writing
    await eventually(lambda: reader.has_seen(total), 180, interval_s=0.2)
    reading.cancel()
    return reader.dangling


@pytest.mark.parametrize("elsewhere", ["equal bucket names", pytest.param("other bucket names", marks=pytest.mark.soak)], indirect=True)
async def test_no_manifest_is_ever_seen_without_what_it_names(make_rig: MakeRig, s3: S3Side, elsewhere: S3Side) -> None:
    rig = await make_rig(s3, elsewhere, dependencies="dss", dependency_wait=WAIT)
    assert await dangling(rig, [Dss(seed) for seed in range(15)], kills=1) == []


@pytest.mark.soak
@pytest.mark.parametrize("elsewhere", ["other bucket names"], indirect=True)
async def test_no_manifest_is_ever_seen_without_what_it_names_in_a_thousand_commits(
    make_rig: MakeRig, s3: S3Side, elsewhere: S3Side
) -> None:
    rig = await make_rig(s3, elsewhere, dependencies="dss", dependency_wait=WAIT)
    assert await dangling(rig, [Dss(seed) for seed in range(250)], kills=5) == []
