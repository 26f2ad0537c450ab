"""Many tiny objects, made through our own store, which is the fastest writer at hand."""

from __future__ import annotations

import asyncio
import time

from embedded.seaweedfs import SeaweedFS
from replication.models import ANY, Attributes
from stores.body import Body
from stores.s3 import S3Store
from stores.signing import Credentials

CHUNK = 10_000
LANES = 32
SEED_S = 600.0
"""No more keys are made after so long, and the case says how many there are."""


async def seed_tiny(many: int, *places: tuple[SeaweedFS, str]) -> int:
    """The same objects of six bytes in every place; how many there are once `SEED_S` have passed."""
    stores = [(_store(server), bucket) for server, bucket in places]
    deadline, made = time.monotonic() + SEED_S, 0
    while made < many and time.monotonic() < deadline:
        numbers = range(made, min(many, made + CHUNK))
        await asyncio.gather(*(_seed(store, bucket, numbers) for store, bucket in stores))
        made = numbers.stop
    for store, _ in stores:
        await store.close()
    return made


async def _seed(store: S3Store, bucket: str, numbers: range) -> None:
    left = iter(numbers)

    async def lane() -> None:
        for number in left:
            await store.put(bucket, f"o/{number:06d}", Body.of(b"%06d" % number), Attributes(), ANY)

    await asyncio.gather(*(lane() for _ in range(LANES)))


def _store(server: SeaweedFS) -> S3Store:
    keys = Credentials(server.access_key, server.secret_key)
    return S3Store("seed", region=server.region, endpoint=server.endpoint, credentials=lambda: keys)
