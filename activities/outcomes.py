"""What a scan does about a key that its listings do not settle: repair it, or tell what repairing it would take."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any, Protocol

from activities._progress import pulse
from activities.recording import audit_of, in_conflict, quarantined, receipt_of
from activities.scan_order import Done
from activities.settle import Settler
from activities.tide import SMALL
from ledger.rows import PendingDeletion, Receipt
from replication.compare import replica_token, source_token
from replication.errors import (
    BucketNotFound,
    ClockSkewed,
    CredentialsRefused,
    DestinationReadOnly,
    EndpointUnreachable,
    LedgerUnavailable,
    NoSpace,
    ObjectError,
    Refused,
    RouteUnknown,
    SourceArchived,
    Throttled,
    Transient,
)
from replication.models import Decision, ListedObject, ReplicateObjectResult, SettleInput, Settlement
from replication.parts import check_size
from replication.passes import COUNTED, ScanInput, arrived_bytes
from replication.routes import Route
from stores.observe import places
from stores.registry import Stores

TRIES = 5
DELAY_S = 0.5
EVERYBODYS = (
    BucketNotFound, ClockSkewed, CredentialsRefused, DestinationReadOnly, EndpointUnreachable, LedgerUnavailable, NoSpace, RouteUnknown,
    Throttled,
)  # fmt: skip
"""What would befall every other object as well: the scan stops at it, and goes on when it is over."""


class Outcomes(Protocol):
    """One mode of a pass."""

    inline_max: int
    """Larger objects need a workflow each."""

    def may_adopt(self, key: str) -> bool:
        """Whether listings that prove equal content are enough."""
        ...

    def adopted(self, key: str, source: ListedObject, replica: ListedObject) -> Receipt: ...

    def planned_copy(self, key: str, source: ListedObject) -> Done: ...

    def told_extra(self, key: str) -> Done: ...

    def refused(self, key: str, source: ListedObject, error: ObjectError) -> Done:
        """An object that the listing alone shows not to be replicable."""
        ...

    def cost(self, listed: ListedObject, *, missing: bool) -> tuple[int, int]:
        """Bytes and requests that looking at a key and settling it take."""
        ...

    def by_tide(self, listed: ListedObject, *, missing: bool) -> bool:
        """Whether settling a key is one read and one write that take turns with others (`activities/tide.py`)."""
        ...

    async def settle(self, key: str, source: ListedObject, *, missing: bool) -> Done: ...

    async def look_at_extra(self, key: str, replica: ListedObject) -> Done:
        """A replica without a source, where listings are not enough to tell of it."""
        ...


class Common:
    """What the modes share: the words for what listings alone have settled."""

    def __init__(self, asked: ScanInput, route: Route, stores: Stores, inline_max: int, *, paired: bool, workflow: str) -> None:
        self.inline_max = inline_max
        self._asked = asked
        self._route = route
        self._stores = stores
        self._paired = paired
        self._workflow = workflow
        self._kinds = stores.get(route.source.store).kind, stores.get(route.destination.store).kind

    def may_adopt(self, key: str) -> bool:
        return not self._paired

    def adopted(self, key: str, source: ListedObject, replica: ListedObject) -> Receipt:
        return Receipt(
            route=self._route.name,
            key=key,
            source_version=source.version.token,
            destination_version=replica.version.token,
            source_listed=source_token(source.version, self._kinds[0]),
            destination_listed=replica_token(replica.version, self._kinds[1]),
            size_bytes=source.version.size_bytes,
            verification="end-to-end",
            workflow=self._workflow,
        )

    def cost(self, listed: ListedObject, *, missing: bool) -> tuple[int, int]:
        return listed.version.size_bytes, 2 if missing else 4

    def by_tide(self, listed: ListedObject, *, missing: bool) -> bool:
        return False

    async def look_at_extra(self, key: str, replica: ListedObject) -> Done:
        return self.told_extra(key)

    def planned_copy(self, key: str, source: ListedObject) -> Done:
        size = source.version.size_bytes
        try:
            for place in places(self._route, key, self._stores):
                place.store.check_key(place.key)
            check_size(size, self._stores.get(self._route.destination.store).limits)
        except Refused as error:
            return self.refused(key, source, error)
        return self._told(key, "copy", "replica-absent", size).count(copied=1, bytes_copied=size, requests=2)

    def told_extra(self, key: str) -> Done:
        return self._told(key, "keep", "source-absent-deletes-ignored", 0)

    def refused(self, key: str, source: ListedObject, error: ObjectError) -> Done:
        return self._told(key, "blocked", error.reason, source.version.size_bytes, message=str(error)).count(blocked=1)

    def _told(self, key: str, action: str, reason: str, size: int, **more: Any) -> Done:
        document = {"route": self._route.name, "key": key, "action": action, "reason": reason, "size_bytes": size, **more}
        return Done(findings=[(key, document)])


class Repair(Common):
    """Brings each key to where its source is, with the same code that follows events."""

    def __init__(self, asked: ScanInput, route: Route, stores: Stores, settler: Settler, *, paired: bool, workflow: str) -> None:
        super().__init__(asked, route, stores, settler.inline_max, paired=paired, workflow=workflow)
        self._settler = settler

    def by_tide(self, listed: ListedObject, *, missing: bool) -> bool:
        return missing and not self._paired and listed.version.size_bytes <= SMALL

    def may_adopt(self, key: str) -> bool:
        return super().may_adopt(key) and not self._settler.is_unsure(self._route, key)

    def refused(self, key: str, source: ListedObject, error: ObjectError) -> Done:
        return Done(quarantined=[quarantined(self._route.name, key, error)]).count(blocked=1)

    async def settle(self, key: str, source: ListedObject, *, missing: bool) -> Done:
        try:
            settlement = await self._patiently(key, source, missing and not self._paired)
        except EVERYBODYS:
            raise
        except SourceArchived as error:
            parked = [key] if self._route.settings.restore else []
            return Done(parked=parked, quarantined=[quarantined(self._route.name, key, error)]).count(waiting=1)
        except ObjectError as error:
            counted = {"blocked": "blocked", "waiting": "waiting"}.get(error.rests, "failed")
            return Done(quarantined=[quarantined(self._route.name, key, error)]).count(**{counted: 1})
        return await self._accounted(key, settlement)

    async def _patiently(self, key: str, source: ListedObject, missing: bool) -> Settlement:
        """Tries again what may heal within seconds, and decides anew where a fence held or the source moved on."""
        for left in range(TRIES - 1, -1, -1):
            try:
                if missing:
                    return await self._settler.copy_listed(self._route, key, source.version, pulse().advance)
                return await self._settler.settle(self._route, SettleInput(route=self._route.name, key=key, cause="pass"), pulse().advance)
            except ObjectError as error:
                if error.rests == "again":
                    missing = False
                elif not isinstance(error, Transient | Throttled):
                    raise
                if not left:
                    raise
                again = error.rests == "again"
                await asyncio.sleep(0.05 if again else DELAY_S * 2 ** (TRIES - 1 - left) * (0.5 + random.random()))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    async def _accounted(self, key: str, settlement: Settlement) -> Done:
        if settlement.plan is not None:
            await self._settler.give_back(self._route, key, settlement.plan)
            return Done(large=[key])
        if settlement.pause is not None:
            return Done(pending=[PendingDeletion(self._route.name, key, self._asked.pass_id)]).count(extra=1)
        result = settlement.result
        if result is None:  # a manifest: it waits in a workflow of its own
            return Done(large=[key])
        return self._recorded(key, result)

    def _recorded(self, key: str, result: ReplicateObjectResult) -> Done:
        done = Done().count(**{COUNTED.get(result.outcome, "blocked"): 1, "bytes_copied": arrived_bytes(result)})
        if receipt := receipt_of(result, self._workflow):
            done.receipts.append(receipt)
        elif result.outcome == "conflict":
            done.quarantined.append(in_conflict(result))
        else:
            done.released.append((self._route.name, key))
        if entry := audit_of(result, self._workflow):
            done.audit.append(entry)
        return done


class Plan(Common):
    """Tells what `Repair` would do; reads, and writes nothing. In a pair, a listing alone does not tell that a copy is due."""

    def __init__(self, asked: ScanInput, route: Route, stores: Stores, settler: Settler, *, paired: bool, workflow: str) -> None:
        super().__init__(asked, route, stores, sys.maxsize if paired else settler.inline_max, paired=paired, workflow=workflow)
        self._settler = settler

    async def settle(self, key: str, source: ListedObject, *, missing: bool) -> Done:
        if missing and not self._paired:
            return self.planned_copy(key, source)
        size = source.version.size_bytes
        decision = await self._decision(key, size)
        if isinstance(decision, Done):
            return decision
        if decision.action == "in_sync":
            return Done().count(skipped=1, requests=2)
        counted = {"copy": "copied", "update": "updated", "keep": "kept", "wait": "waiting"}.get(decision.action, "blocked")
        told = self._told(key, decision.action, decision.reason, size, message=decision.message)
        moved = size if decision.action == "copy" else 0
        return told.count(**{counted: 1}, bytes_copied=moved, requests=4 if moved else 3)

    async def look_at_extra(self, key: str, replica: ListedObject) -> Done:
        """A listing does not tell whose object it is."""
        decision = await self._decision(key, 0)
        if isinstance(decision, Done):
            return decision.count(extra=1)
        told = self._told(key, decision.action, decision.reason, 0).count(extra=1)
        return told.count(deleted=1, requests=3) if decision.action == "delete" else told.count(requests=2)

    async def _decision(self, key: str, size: int) -> Decision | Done:
        """What a look leads to, or what is told of an object that cannot be looked at."""
        try:
            return (await self._settler.look(self._route, key)).decision
        except EVERYBODYS:
            raise
        except ObjectError as error:
            counted = {"blocked": "blocked", "waiting": "waiting"}.get(error.rests, "failed")
            return self._told(key, counted, error.reason, size, message=str(error)).count(**{counted: 1})
