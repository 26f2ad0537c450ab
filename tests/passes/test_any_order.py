"""Passes among users who write on both sides, stores that fail before and behind what they do, and attempts that are cut off.

Whatever the order: no object of a user is deleted, the audit trail has each change once, and when all is quiet one pass makes both
sides equal, and the next one does nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import outcomes
from activities._progress import Pulse, current_pulse
from replication.errors import ObjectError, ServerFault, StoreTimeout, Throttled
from replication.mark import parse_mark, without_mark
from replication.models import ANY, Attributes, Condition, ListedObject, ObjectInfo, Version
from replication.passes import Counters, ExtraInput, Filters, KeyRange, ScanInput, WeighInput
from stores.body import Body
from stores.memory import MemoryStore
from tests.passes.in_memory import Bench, bench
from tests.passes.test_pages_of_deletions import activities_of

KEYS = ["a", "a/b", "a//b", "b", "dir/", "é", "k1", "k2", "z\U0001f600", "z\ue000"]
MIRROR = {"mode": "mirror", "max_percent": 100}
BEFORE, BEHIND = (Throttled, ServerFault, StoreTimeout), (ServerFault, StoreTimeout)


class Unreliable(MemoryStore):
    """Takes its turn somewhere among the others; one request in `fails` fails, before or behind what it asks for. `changes` are
    those that were asked for, as (action of the audit trail, key)."""

    noise: random.Random
    fails = 0
    changes: list[tuple[str, str]]

    async def _may_fail(self, errors: Sequence[type[ObjectError]]) -> None:
        for _ in range(self.noise.randrange(4)):
            await asyncio.sleep(0)
        if self.fails and not self.noise.randrange(self.fails):
            raise self.noise.choice(errors)("a fault of the test")

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        await self._may_fail(BEFORE)
        return await super().head(bucket, key, tags=tags)

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        async for page in super().list_objects(bucket, prefix, start_after=start_after, page_size=min(page_size, 3)):
            await self._may_fail(BEFORE)
            yield page

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        await self._may_fail(BEFORE)
        info = await super().put(bucket, key, body, attributes, condition)
        self.changes.append(("copied", key))
        await self._may_fail(BEHIND)
        return info

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        await self._may_fail(BEFORE)
        info = await super().update_attributes(bucket, key, version, attributes)
        self.changes.append(("updated", key))
        await self._may_fail(BEHIND)
        return info

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        await self._may_fail(BEFORE)
        replica = self._bucket(bucket).objects.get(key)
        await super().delete(bucket, key, version)
        assert replica is None or parse_mark(replica.info.attributes.metadata), f"{key} was a user's"
        self.changes += [("deleted", key)] if replica is not None else []
        await self._may_fail(BEHIND)


class Users:
    """Change both sides at any time, and never fail."""

    def __init__(self, made: Bench, noise: random.Random) -> None:
        self._made, self._noise = made, noise

    async def change(self) -> None:
        key, choice = self._noise.choice(KEYS), self._noise.random()
        data, attributes = bytes(self._noise.randrange(3)), Attributes(metadata={"x": self._noise.choice("12")})
        if choice < 0.5:
            await MemoryStore.put(self._made.source, "one", key, Body.of(data), attributes, ANY)
        elif choice < 0.75:
            self._made.source._bucket("one").remove(key) if key in self._made.source._bucket("one").objects else None
        elif choice < 0.85 and (stored := self._made.source._bucket("one").objects.get(key)):
            await MemoryStore.update_attributes(self._made.source, "one", key, stored.info.version, attributes)
        elif choice < 0.95:
            await MemoryStore.put(self._made.destination, "two", key, Body.of(data), attributes, ANY)

    async def go_on(self) -> None:
        while True:
            await self.change()
            for _ in range(self._noise.randrange(30)):
                await asyncio.sleep(0)


async def scanned(made: Bench, noise: random.Random, pass_id: str, *, cut_off: bool) -> Counters:
    """A whole scan, in as many stretches and attempts as it takes."""
    total, after, pulse = Counters(), "", Pulse()
    while True:
        asked = ScanInput(route="r", pass_id=pass_id, max_keys=noise.choice([2, 5, 100]), keys=KeyRange(after=after))
        attempt = asyncio.create_task(made.scan(pulse, **asked.model_dump()))
        if cut_off and not noise.randrange(3):
            for _ in range(noise.randrange(200)):
                await asyncio.sleep(0)
            attempt.cancel()
        try:
            result = await attempt
        except (ObjectError, asyncio.CancelledError):
            pulse = Pulse(pulse.details)
            continue
        total, after, pulse = total.plus(result.counters), result.cursor, Pulse()
        if result.ended:
            return total


async def passed(made: Bench, noise: random.Random, pass_id: str, *, cut_off: bool = False) -> Counters:
    counters = await scanned(made, noise, pass_id, cut_off=cut_off)
    activities, environment = activities_of(made), ActivityEnvironment()
    await environment.run(activities.weigh_deletions, WeighInput(route="r", pass_id=pass_id, filters=Filters(), counters=counters))
    pulse = Pulse()
    while True:
        token = current_pulse.set(pulse)
        try:
            deleted = await environment.run(activities.delete_extra, ExtraInput(route="r", pass_id=pass_id, approved=True))
        except ObjectError:
            pulse = Pulse(pulse.details)
        else:
            parts = ("skipped", "kept", "copied", "updated", "waiting", "blocked", "failed")
            left = counters.listed - sum(getattr(counters, part) for part in parts)
            assert 0 <= left <= counters.extra, "what is listed is in one counter, or went meanwhile"
            assert deleted.deleted <= counters.extra
            return counters
        finally:
            current_pulse.reset(token)


def state(store: MemoryStore, bucket: str) -> dict[str, tuple[int | None, dict[str, str]]]:
    objects = store._bucket(bucket).objects
    return {key: (one.info.checksums.crc32c, without_mark(one.info.attributes.metadata)) for key, one in objects.items()}


@pytest.mark.parametrize("fails", [0, 12])
@pytest.mark.parametrize("seed", range(6))
async def test_passes_end_right(monkeypatch: pytest.MonkeyPatch, seed: int, fails: int) -> None:
    monkeypatch.setattr(outcomes, "DELAY_S", 0.0)
    monkeypatch.setattr("stores.transfer.QUICK_DELAY_S", 0.0)
    noise = random.Random(seed)
    async with bench(deletes=MIRROR) as made:
        users, changes = Users(made, noise), list[tuple[str, str]]()
        for store in (made.source, made.destination):
            store.__class__ = Unreliable
            store.noise, store.fails, store.changes = noise, fails, changes  # type: ignore[attr-defined]
        for _ in range(10):
            await users.change()
        changing = asyncio.create_task(users.go_on())
        for number in range(2):
            await passed(made, noise, f"p{number}", cut_off=bool(fails))
        changing.cancel()
        with suppress(asyncio.CancelledError):
            await changing
        for store in (made.source, made.destination):
            store.fails = 0  # type: ignore[attr-defined]
        await passed(made, noise, "quiet")
        await assert_right(made)
        before = len(changes)
        again = await passed(made, noise, "again")
        assert (len(changes), again.copied, again.updated, again.failed) == (before, 0, 0, 0)
        told, done = Counter((entry.action, entry.key) for entry in await made.ledger.audit("r")), Counter[Any](changes)
        assert not told - done
        assert fails or not done - told
        assert (await made.ledger.verify_chain("r")).intact


async def assert_right(made: Bench) -> None:
    wanted, found = state(made.source, "one"), state(made.destination, "two")
    assert {key: found.get(key, (None, {}))[0] for key in wanted} == {key: crc for key, (crc, _) in wanted.items()}
    foreign = made.destination._bucket("two").objects.keys() - wanted.keys()
    assert not [key for key in foreign if parse_mark(made.destination._bucket("two").objects[key].info.attributes.metadata)]
    versions = {key: one.info.version.token for key, one in made.destination._bucket("two").objects.items()}
    assert {receipt.key: receipt.destination_version for receipt in await made.ledger.range("r")} == {key: versions[key] for key in wanted}
    assert await made.ledger.pending_count("r") == len(foreign & {one.key for one in await made.ledger.pending_deletions("r")}) == 0
