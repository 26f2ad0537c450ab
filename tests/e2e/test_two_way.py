"""Two routes between the same two places, each write followed by a look from either side, as its events would cause."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from temporalio.client import Client

from ledger.ledger import Ledger
from replication.models import ReplicateObjectResult
from replication.settings import parse_settings
from stores.registry import Stores
from tests.e2e.conftest import Sides
from tests.e2e.sides import Side
from tests.lab import FAST_RETRIES, Lab
from workflows.start import start_object

T = TypeVar("T")


class Pair:
    """Sides `a` and `b` with the routes `ab-{token}` and `ba-{token}` between them, below one prefix.

    A route's deletions have a workflow that outlives the test, on the task queue of its first one: each has a name of its own.
    """

    def __init__(self, lab: Lab, a: Side, b: Side, token: str) -> None:
        self.lab, self.a, self.b, self.token = lab, a, b, token
        self.prefix = f"two-way-{token}/"

    async def put(self, side: Side, key: str, data: bytes) -> None:
        await asyncio.to_thread(side.put, self.prefix + key, data)

    async def change(self, side: Side, key: str, what: str, text: str) -> None:
        """What a user does: `write` or `delete`."""
        if what == "write":
            await self.put(side, key, text.encode())
        else:
            await asyncio.to_thread(side.delete, self.prefix + key)

    async def look(self, route: str, key: str) -> ReplicateObjectResult:
        handle = await start_object(self.lab.client, self.lab.queue, f"{route}-{self.token}", self.prefix + key, "event")
        return await handle.result()

    async def settle(self, key: str) -> list[str]:
        """Looks from both sides until three looks in a row change nothing; the reasons of the looks that wrote."""
        wrote: list[str] = []
        quiet = 0
        for turn in range(12):
            result = await self.look(("ab", "ba")[turn % 2], key)
            changed = result.outcome in ("copied", "updated", "deleted")
            wrote += [result.reason] * changed
            quiet = 0 if changed else quiet + 1
            if quiet == 3:
                return wrote
        raise AssertionError(f"the routes do not come to rest: {wrote}")

    async def content(self, key: str) -> tuple[str | None, str | None]:
        seen = [await asyncio.to_thread(side.see, self.prefix + key) for side in (self.a, self.b)]
        return (seen[0].sha256 if seen[0] else None, seen[1].sha256 if seen[1] else None)

    async def names(self, side: Side) -> set[str]:
        return {key.removeprefix(self.prefix) for key in await asyncio.to_thread(side.keys) if key.startswith(self.prefix)}


@pytest.fixture
def pair(temporal_client: Client, sides: Sides, tmp_path: Path) -> Any:
    @asynccontextmanager
    async def opened(a: str, b: str, **route: Any) -> AsyncIterator[Pair]:
        one, other = sides[a], sides[b]
        token = uuid.uuid4().hex[:12]
        ends = [{"store": side.name, "bucket": side.bucket, "prefix": f"two-way-{token}/"} for side in (one, other)]
        document = {
            "temporal": {"task_queue": f"q-{uuid.uuid4().hex}"},
            "ledger": f"sqlite:///{tmp_path}/ledger.db",
            "stores": {side.name: side.settings() for side in (one, other)},
            "routes": [
                {"name": f"ab-{token}", "source": ends[0], "destination": ends[1], **route},
                {"name": f"ba-{token}", "source": ends[1], "destination": ends[0], **route},
            ],
            "worker": {"retries": FAST_RETRIES, "control_slots": 12, "transfer_slots": 4, "streams": 2},
        }
        settings = parse_settings(document)
        stores = Stores(settings, {**one.environ(), **other.environ()})
        lab = Lab(temporal_client, settings, stores)
        try:
            async with lab.worker():
                yield Pair(lab, one, other, token)
        finally:
            await stores.close()

    return opened


OpenPair = Any
PAIRS = [("s3", "s3b"), ("s3", "gcs"), ("s3", "files")]


@pytest.mark.parametrize(("a", "b"), PAIRS)
async def test_a_write_is_copied_once_whichever_side_writes_and_however_often(pair: OpenPair, a: str, b: str) -> None:
    opened: AbstractAsyncContextManager[Pair] = pair(a, b)
    async with opened as two:
        for turn, side in enumerate((two.a, two.b, two.b, two.a, two.b)):
            await two.put(side, "k", b"%d" % turn)
            assert len(await two.settle("k")) == 1
            here, there = await two.content("k")
            assert here == there


async def test_a_conflict_goes_to_the_newest_and_both_routes_say_so(pair: OpenPair) -> None:
    async with pair("s3", "s3b") as two:
        await two.put(two.a, "k", b"common")
        await two.settle("k")
        await two.put(two.a, "k", b"earlier, on a")
        await asyncio.sleep(1.1)  # modification times of S3 have whole seconds
        await two.put(two.b, "k", b"later, on b")

        assert (await two.look("ab", "k")).reason == "conflict-lost"
        assert (await two.look("ba", "k")).reason == "conflict-won"
        here, there = await two.content("k")
        assert here == there
        assert await two.settle("k") == []


async def test_keep_both_keeps_the_loser_under_a_key_of_its_own_on_both_sides(pair: OpenPair) -> None:
    async with pair("s3", "s3b", conflict="keep-both") as two:
        await two.put(two.a, "k", b"common")
        await two.settle("k")
        await two.put(two.a, "k", b"loser")
        loser = (await two.content("k"))[0]
        await asyncio.sleep(1.1)  # modification times of S3 have whole seconds
        await two.put(two.b, "k", b"winner")
        winner = (await two.content("k"))[1]

        assert await two.settle("k") == ["conflict-won"]
        assert await two.content("k") == (winner, winner)
        (kept,) = await two.names(two.a) - {"k"}
        assert kept.startswith("k.conflict-")
        await two.settle(kept)
        assert await two.content(kept) == (loser, loser)
        ledger = Ledger(two.lab.settings.ledger)
        told = [(entry.action, entry.reason) for entry in await ledger.history(f"ba-{two.token}", two.prefix + "k")]
        await ledger.close()
        assert told == [("kept-beside", f"the loser of a conflict is {two.prefix + kept!r}"), ("copied", "conflict-won")]


async def test_a_write_meets_an_untouched_counterpart_and_is_no_conflict(pair: OpenPair) -> None:
    """The older side's object carries no mark: only the receipt tells that it did not change."""
    async with pair("s3", "s3b", conflict="keep-both") as two:
        await two.put(two.a, "k", b"v1")
        await two.settle("k")
        await two.put(two.b, "k", b"v2, over the replica")
        assert await two.settle("k") == ["source-newer"]
        assert await two.names(two.a) == {"k"}


async def test_a_deleted_object_does_not_come_back_from_its_replica(pair: OpenPair) -> None:
    async with pair("s3", "s3b", deletes="mirror") as two:
        await two.put(two.a, "k", b"v1")
        await two.settle("k")
        await asyncio.to_thread(two.a.delete, two.prefix + "k")
        assert await two.settle("k") == ["source-deleted"]
        assert await two.content("k") == (None, None)


SEEDS = 50
WAYS = list(itertools.product(("delete", "write"), repeat=2))


async def test_users_of_both_sides_at_once_and_the_routes_between_them_come_to_rest(pair: OpenPair) -> None:
    """A write beats a deletion on the other side, two deletions are one, and no route deletes more than once."""
    opened: AbstractAsyncContextManager[Pair] = pair("s3", "s3b", deletes="mirror")
    async with opened as two:
        turns = asyncio.Semaphore(8)

        async def raced(seed: int) -> tuple[str | None, str | None]:
            key, chance, (on_a, on_b) = f"k{seed}", random.Random(seed), WAYS[seed % len(WAYS)]
            async with turns:
                await two.put(two.a, key, b"common")
                await two.settle(key)
                barrier = asyncio.Barrier(4)

                async def at_once(work: Callable[[], Awaitable[T]]) -> T:
                    await barrier.wait()
                    await asyncio.sleep(chance.uniform(0, 0.2))
                    return await work()

                _, _, ab, ba = await asyncio.gather(
                    at_once(partial(two.change, two.a, key, on_a, f"a{seed}")),
                    at_once(partial(two.change, two.b, key, on_b, f"b{seed}")),
                    at_once(partial(two.look, "ab", key)),
                    at_once(partial(two.look, "ba", key)),
                )
                wrote = [look.reason for look in (ab, ba) if look.outcome == "deleted"] + await two.settle(key)
                assert wrote.count("source-deleted") <= 1, (seed, wrote)
                return await two.content(key)

        ends = await asyncio.gather(*(raced(seed) for seed in range(SEEDS)))
    for seed, (here, there) in enumerate(ends):
        assert here == there, seed
        written: set[str | None] = {
            digest(f"{side}{seed}") for side, done in zip("ab", WAYS[seed % len(WAYS)], strict=True) if done == "write"
        }
        assert here in (written or {None}), seed


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
