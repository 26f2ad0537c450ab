"""Mode `verify`: what is wrong with each key, from a fresh look at both sides; nothing is written at any store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from activities._progress import pulse
from activities.following import Following
from activities.outcomes import DELAY_S, EVERYBODYS, TRIES, Common
from activities.scan_order import Done
from ledger.ledger import Ledger
from ledger.rows import VerifiedLeaf
from replication.anomalies import (
    LEFT_ALONE,
    Anomaly,
    Compared,
    anomalies_of,
    bytes_differ,
    differs_by_word,
    digest_of,
    extra_anomaly,
    missing_references,
    unreadable,
    unresolved,
    verified_level,
)
from replication.errors import DependencyCycle, IntegrityMismatch, ObjectError, Refused, Throttled, Transient, UnsatisfiableDependency
from replication.models import ListedObject
from replication.passes import ScanInput
from replication.routes import Route
from replication.verify import same_checksums
from stores.compare_bytes import first_difference
from stores.observe import View, observe
from stores.registry import Stores

GRACE_S = 3.0
"""How old an object must be to count as wrong: so long an event may be under way to its replica."""
READERS = 16
"""Objects of one process whose bytes are read at once."""


class Verify(Common):
    """Compares each key; `readers` bounds how many objects are read at once, over all scans of the process."""

    def __init__(
        self, asked: ScanInput, route: Route, stores: Stores, ledger: Ledger, readers: asyncio.Semaphore, *, paired: bool, workflow: str
    ) -> None:
        super().__init__(asked, route, stores, inline_max=0, paired=paired, workflow=workflow)
        self._ledger = ledger
        self._readers = readers
        self._following = Following(stores)

    def cost(self, listed: ListedObject, *, missing: bool) -> tuple[int, int]:
        return 2 * listed.version.size_bytes if self._asked.deep else 0, 2

    def refused(self, key: str, source: ListedObject, error: ObjectError) -> Done:
        return Done(findings=[(key, unreadable(error).document(self._route.name, key))]).count(differing=1)

    async def settle(self, key: str, source: ListedObject, *, missing: bool) -> Done:
        return await self._patiently(key, lambda: self._examined(key), "differing")

    async def look_at_extra(self, key: str, replica: ListedObject) -> Done:
        return await self._patiently(key, lambda: self._examined_extra(key), "extra")

    async def _patiently(self, key: str, examine: Callable[[], Awaitable[Done]], counted: str) -> Done:
        """Tries again what may heal within seconds, and looks again where an object changed while it was read."""
        for left in range(TRIES - 1, -1, -1):
            try:
                return await examine()
            except ObjectError as error:
                again = error.rests == "again"
                if left and (again or isinstance(error, Transient | Throttled)):
                    await asyncio.sleep(0.05 if again else DELAY_S * 2 ** (TRIES - 1 - left) * (0.5 + random.random()))  # noqa: S311  # jitter
                elif isinstance(error, EVERYBODYS):
                    raise
                else:
                    return self._found(key, [unreadable(error)], counted)
        raise AssertionError("unreachable")

    def _found(self, key: str, found: list[Anomaly], counted: str) -> Done:
        name = self._route.name
        return Done(findings=[(key, anomaly.document(name, key)) for anomaly in found]).count(**{counted: 1}, requests=2)

    # --- keys with a source --------------------------------------------------------------------------------------------

    async def _examined(self, key: str) -> Done:
        """Looks again at what is wrong with an object that was stored a moment ago, when it is old enough."""
        view, done = await self._look(key)
        if done.findings and view.source_info is not None and (wait_s := _grace_s(view.source_info.version.modified)):
            await asyncio.sleep(wait_s)
            _, done = await self._look(key)
        return done

    async def _look(self, key: str) -> tuple[View, Done]:
        view = await observe(self._route, key, self._stores, paired=self._paired)
        return view, await self._judged(key, view)

    async def _judged(self, key: str, view: View) -> Done:
        if view.source_info is None:  # it went after it was listed, and a deletion may be under way
            return Done().count(kept=1, requests=2)
        seen = self._compared(view)
        if seen.decision.reason in LEFT_ALONE:
            return Done().count(kept=1, requests=2)
        seen, found = await self._contents(view, replace(seen, receipt=await self._receipt(seen)))
        found += await self._references(view)
        if found:
            return self._found(key, found, "differing")
        done = Done().count(skipped=1, requests=2)
        if self._asked.certificate:
            done.leaves.append(_leaf(key, seen))
        return done

    def _compared(self, view: View) -> Compared:
        settings = self._route.settings
        assert view.source_info is not None
        assert view.mapped is not None
        return Compared(
            decision=view.decision,
            source=view.source_info,
            replica=view.replica_info,
            route=self._route.name,
            source_place=view.source_place,
            replica_place=view.replica_place,
            wanted=view.mapped.attributes,
            compare_tags=settings.tags == "copy",
            case_insensitive_metadata=view.destination.store.limits.metadata_ascii,
            paired=self._paired,
        )

    async def _receipt(self, seen: Compared) -> tuple[int, str] | None:
        """Looked for where the stores' checksums cannot be compared."""
        if seen.replica is None or same_checksums(seen.source.checksums, seen.replica.checksums) is not None:
            return None
        receipt = await self._ledger.find(self._route.name, seen.source.key)
        if receipt is None or receipt.crc32c is None or receipt.source_version != seen.source.version.token:
            return None
        return receipt.crc32c, receipt.destination_version

    async def _contents(self, view: View, seen: Compared) -> tuple[Compared, list[Anomaly]]:
        """The anomalies of the object itself; with `deep` its bytes are read, unless the stores' word says already that they differ."""
        if not self._asked.deep or seen.replica is None or differs_by_word(seen.source, seen.replica):
            return seen, anomalies_of(seen)
        found = await self._read(view, seen)
        if isinstance(found, Anomaly):
            return seen, [found]
        seen = replace(seen, bytes_crc32c=found)
        return seen, anomalies_of(seen)

    async def _read(self, view: View, seen: Compared) -> Anomaly | int:
        """How the bytes differ, or the CRC32C of what both sides hold."""
        assert seen.replica is not None
        async with self._readers:
            difference, crc32c = await first_difference(view.source, seen.source, view.destination, seen.replica, pulse().advance)
        if difference is not None:
            return bytes_differ(difference.offset, difference.length, difference.crc32c, difference.other_crc32c)
        for side in (seen.source, seen.replica):
            if side.checksums.crc32c not in (None, crc32c):
                return unreadable(IntegrityMismatch("both sides hold equal bytes, which do not have the checksum that a store publishes"))
        return crc32c

    async def _references(self, view: View) -> list[Anomaly]:
        try:
            rule = self._route.rules.rule_of(view.source.key) if self._route.rules is not None else None
            if rule is None:
                return []
            missing = await self._following.missing(view, rule)
        except (DependencyCycle, UnsatisfiableDependency) as error:
            return [unresolved(error)]
        except Refused as error:
            if isinstance(error, EVERYBODYS):
                raise
            return [unreadable(error)]
        return [missing_references(missing.keys, missing.count)] if missing.count else []

    # --- replicas without a source ---------------------------------------------------------------------------------------

    async def _examined_extra(self, key: str) -> Done:
        view = await observe(self._route, key, self._stores, paired=self._paired)
        if view.source_info is not None or view.replica_info is None:  # one of them came or went after it was listed
            return Done().count(requests=2)
        anomaly = extra_anomaly(view.decision, view.replica_info, self._route.name, view.source_place, view.replica_place)
        if self._paired and anomaly.name == "foreign":  # a user's object, which the route back replicates
            return Done().count(requests=2)
        return self._found(key, [anomaly], "extra")


def _grace_s(modified: datetime | None) -> float:
    """How long an object stays too young; 0.0 for one without a time, and for one of the future, by a clock that is off."""
    age_s = time.time() - modified.timestamp() if modified is not None else -1.0
    return GRACE_S - age_s if 0 <= age_s < GRACE_S else 0.0


def _leaf(key: str, seen: Compared) -> VerifiedLeaf:
    return VerifiedLeaf(key, seen.source.size_bytes, digest_of(seen), verified_level(seen))
