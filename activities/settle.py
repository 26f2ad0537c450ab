"""One look at one key, carried through as far as one step can: decide, then finish it or plan it.

Used by the event lane, one object at a time, and by whatever else copies small objects. Everything here acts on a fresh
view of both sides; every write is conditional on what that view saw.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

from activities.deletions import Permit, Permits
from activities.dependencies import Dependencies
from activities.pairs import Pairs
from activities.tide import SMALL, Tide
from ledger.ledger import Ledger
from replication.compare import replica_token, source_token
from replication.errors import DestinationForeign, IntegrityMismatch, NotSupported, ObjectError, PreconditionFailed, SourceArchived
from replication.ids import new_copy_id
from replication.limits import Capabilities
from replication.manifests.documents import MAX_MANIFEST_BYTES
from replication.manifests.rule import Rule
from replication.mark import make_mark, own_mark, with_mark
from replication.models import (
    Attributes,
    Checksums,
    Condition,
    CopyPlan,
    ObjectInfo,
    Outcome,
    Pause,
    ReplicateObjectResult,
    SettleInput,
    Settlement,
    Verification,
    Version,
)
from replication.parts import plan_parts
from replication.routes import SKIP_REASONS, Route
from replication.settings import GATHERED_BYTES, Settings
from replication.verify import level, same_checksums
from stores.budget import ByteBudget
from stores.observe import View, head_or_absent, places, view_of
from stores.pace import Pace
from stores.registry import Stores
from stores.transfer import (
    GATHER_MAX,
    Meter,
    Place,
    Transferred,
    check_fence,
    commit_recognised,
    quick_retry,
    send_bytes,
    send_object,
)

LOOKS = 3
"""How often one settling looks again by itself when a fence held."""
MAX_LOSSES = 50
RESTORE_DAYS = 7
"""How long a restored object stays readable: longer than the longest wait between two looks."""
HELD_S = 900.0
"""Seconds until a deletion that waits for an operator asks again by itself."""
PACED_S = 12.0
"""Seconds until one asks again that waits for others to be counted."""


@dataclass(frozen=True, slots=True)
class SmallPlan:
    """A `CopyPlan` of one request, which nobody has to remember: the same fields, as far as a commit needs them."""

    source: Version
    checksums: Checksums
    condition: Condition
    attributes: Attributes
    losses: list[str]
    copy_id: str
    reason: str
    upload_id: str = ""


Record = Callable[[ReplicateObjectResult], Awaitable[None]]
"""Keeps a result in the ledger. Raises `LedgerUnavailable`: the object is then looked at again, and recorded."""


class Settler:
    """Settles keys of the configured routes.

    `record` is told of every result. Deletions ask for `permits`; None where somebody gave one for all of them. One that
    `collects` makes none, and tells them as a pause. `pace` is that of the steps of small objects.
    """

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        ledger: Ledger,
        permits: Permits | None,
        *,
        record: Record,
        collects: bool = False,
        inline_max: int = GATHER_MAX,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._record = record
        self._collects = collects
        self.inline_max = inline_max
        self._budget = ByteBudget(GATHERED_BYTES)
        self._tides: defaultdict[tuple[str, str], Tide] = defaultdict(lambda: Tide(pace=pace))
        self._dependencies = Dependencies(stores)
        self._permits = permits
        self._pairs = Pairs(settings, stores, ledger)
        self._random = random.SystemRandom()

    def route(self, name: str) -> Route:
        """Raises `RouteUnknown`."""
        return self._settings.route(name)

    async def settle(self, route: Route, asked: SettleInput, meter: Meter) -> Settlement:
        """Looks, decides and acts; returns the plan of a copy that is too large for one step, what a manifest waits for, or
        the pause before a deletion."""
        key = asked.key
        if reason := route.skip_reason(key):
            return Settlement(result=_result(route, key, "kept", reason, SKIP_REASONS[reason]))
        rule = route.rules.rule_of(key) if route.rules else None
        for look in range(LOOKS):
            try:
                view = await self._pairs.observe(route, key)
                return await self._settle(view, asked, rule, meter)
            except PreconditionFailed:
                await asyncio.sleep(0.05 * 2**look)
        raise PreconditionFailed("the destination changed each time it was about to be written")

    async def _settle(self, view: View, asked: SettleInput, rule: Rule | None, meter: Meter) -> Settlement:
        if rule and view.decision.action == "copy":
            if waiting := await self._dependencies.missing(view, rule, asked.waiting, asked.woken, meter):
                return Settlement(waiting=waiting)
        if view.decision.action == "delete":
            return await self._delete(view, asked.absent_for_s)
        try:
            return await self._act(view, meter)
        except SourceArchived:
            await self._ask_archive(view)
            raise

    async def _act(self, view: View, meter: Meter) -> Settlement:
        decision = view.decision
        match decision.action:
            case "copy":
                return await self._copy(view, meter)
            case "update":
                return await self._recorded(await self._update(view, meter))
            case "wait":
                raise SourceArchived(decision.message)
            case "block":
                raise DestinationForeign(decision.message)
            case "conflict":
                return _told(view, "conflict")
            case "keep":
                return await self._recorded(_told(view, "kept"))
            case _:
                return await self._recorded(_told(view, "in_sync"))

    async def _ask_archive(self, view: View) -> None:
        """Asks for a readable copy of the source where the route says so; asking again changes nothing."""
        if view.route.settings.restore and view.source_info is not None:
            version = view.source_info.version
            await view.source.store.request_restore(view.source.bucket, view.source.key, version, days=RESTORE_DAYS)

    async def _recorded(self, settlement: Settlement) -> Settlement:
        if settlement.result is not None:
            await self._record(settlement.result)
        return settlement

    # --- acting ------------------------------------------------------------------------------------------------------

    async def _copy(self, view: View, meter: Meter) -> Settlement:
        if view.decision.keep_beside:
            await self._pairs.keep_beside(view)
        manifest = view.route.rules is not None and view.route.rules.rule_of(view.source.key) is not None
        plan = await self._plan(view, whole=manifest)
        if plan.mode == "parts":
            store, key = view.destination.store, view.destination.key
            upload_id = await store.begin_upload(view.destination.bucket, key, plan.attributes)
            return Settlement(plan=plan.model_copy(update={"upload_id": upload_id}))
        if manifest or plan.source.size_bytes <= self.inline_max:
            return await self.copy_whole(view.route, view.source.key, plan, meter)
        return Settlement(plan=plan)

    async def copy_whole(self, route: Route, key: str, plan: CopyPlan, meter: Meter) -> Settlement:
        """Carries out a plan of mode `object`: one commit, verified, and the source looked at once more."""
        source, destination = places(route, key, self._stores)
        capabilities = await self._stores.capabilities(route.settings.destination.store, destination.bucket)
        send = self._server_side if plan.server_side else self._streamed
        done = await self.commit(
            route, key, destination, plan, lambda: send(source, destination, plan, capabilities, meter), capabilities.conditional_writes
        )
        return await self.settled(route, source, destination, plan, done)

    async def copy_listed(self, route: Route, key: str, listed: Version, meter: Meter) -> Settlement:
        """Copies an object that the destination's listing lacks, by one read and one conditional write.

        Raises `SourceChanged` or `PreconditionFailed` where either side is not what was listed; then `settle` is for it.
        """
        source, destination = places(route, key, self._stores)
        tide = self._tides[route.source.store, route.destination.store] if listed.size_bytes <= SMALL else None
        async with self._budget.hold(listed.size_bytes):
            async with tide.reads if tide else nullcontext():
                info, data = await quick_retry(lambda: source.store.fetch(source.bucket, key, pin=listed))
            meter(len(data))
            view = view_of(route, source, destination, info, None)
            if view.decision.action != "copy":
                return await self._act(view, meter)
            plan = self._small_plan(view, info)
            capabilities = await self._stores.capabilities(route.destination.store, destination.bucket)

            async def write() -> Transferred:
                return await send_bytes(
                    destination,
                    data,
                    checksums=info.checksums,
                    attributes=plan.attributes,
                    condition=plan.condition,
                    capabilities=capabilities,
                )

            async with tide.writes if tide else nullcontext():
                done = await self.commit(route, key, destination, plan, write, capabilities.conditional_writes)
        return await self._recorded(Settlement(result=_copied(route, source, destination, plan, done)))

    async def commit(
        self,
        route: Route,
        key: str,
        destination: Place,
        plan: CopyPlan | SmallPlan,
        write: Callable[[], Awaitable[Transferred]],
        fenced: bool,
    ) -> Transferred:
        """Runs a write; recognises our own commit behind a lost answer; looks before and after where nothing fences it."""
        if not fenced:
            await check_fence(destination, plan.condition)
        done = await commit_recognised(write, lambda: _recognised(route, key, destination, plan))
        if not fenced and await recognise(route, key, destination, plan) is None:
            raise PreconditionFailed("another write took the place of this one, and the endpoint has no conditional writes")
        return done

    async def settled(self, route: Route, source: Place, destination: Place, plan: CopyPlan, done: Transferred) -> Settlement:
        """The result of a finished copy; dirty if the source is not what was copied any more."""
        now = await head_or_absent(source)
        changed = now is None or now.version.token != plan.source.token or now.version.revision != plan.source.revision
        return await self._recorded(Settlement(result=_copied(route, source, destination, plan, done), dirty=changed))

    async def _streamed(self, source: Place, destination: Place, plan: CopyPlan, capabilities: Capabilities, meter: Meter) -> Transferred:
        return await send_object(
            source,
            destination,
            pin=plan.source,
            checksums=plan.checksums,
            attributes=plan.attributes,
            condition=plan.condition,
            capabilities=capabilities,
            meter=meter,
            budget=self._budget,
        )

    async def _server_side(
        self, source: Place, destination: Place, plan: CopyPlan, capabilities: Capabilities, meter: Meter
    ) -> Transferred:
        info = await destination.store.copy(
            source.bucket, source.key, plan.source, destination.bucket, destination.key, plan.attributes, plan.condition, progress=meter
        )
        if info.checksums == Checksums():
            info = await destination.store.head(destination.bucket, destination.key, tags=False)
        agree = same_checksums(plan.checksums, info.checksums)
        if agree is False or info.size_bytes != plan.source.size_bytes:
            await destination.store.delete(destination.bucket, destination.key, info.version)
            raise IntegrityMismatch("the server-side copy is not equal to its source; it was removed again")
        return Transferred(info, info.checksums, level(source_compared=bool(agree), destination_proved=bool(agree)), 0)

    async def _update(self, view: View, meter: Meter) -> Settlement:
        replica, attributes = view.replica_info, self._attributes(view, new_copy_id(self._random))
        assert replica is not None
        try:
            info = await view.destination.store.update_attributes(
                view.destination.bucket, view.destination.key, replica.version, attributes
            )
        except NotSupported:
            decision = replace(view.decision, action="copy", condition=Condition.match(replica.version))
            return await self._copy(replace(view, decision=decision), meter)
        settlement = _told(view, "updated")
        assert settlement.result is not None
        now = {"destination_version": info.version.token, "destination_listed": replica_token(info.version, view.destination.store.kind)}
        return settlement.model_copy(update={"result": settlement.result.model_copy(update=now)})

    async def _delete(self, view: View, absent_for_s: float) -> Settlement:
        """After the hold, and with the route's permit, the source is looked at again before the replica goes."""
        assert view.replica_info is not None
        if self._collects:
            return Settlement(
                pause=Pause(phase="waiting", reason="deletion-collected", message="a pass deletes at its end", seconds=HELD_S)
            )
        hold_s = view.route.settings.deletions.hold or 0.0
        if absent_for_s < hold_s:
            message = f"gone from the source; its replica goes when it has been gone for {hold_s:g} s"
            return Settlement(pause=Pause(phase="waiting", reason="deletion-hold", message=message, seconds=hold_s - absent_for_s))
        if self._permits is not None:
            permit = await self._permits.ask(view.route.name, view.source.key)
            if not permit.granted:
                return Settlement(pause=_pause(permit))
        if await head_or_absent(view.source) is not None:
            raise PreconditionFailed("the source exists again")
        await view.destination.store.delete(view.destination.bucket, view.destination.key, view.replica_info.version)
        return await self._recorded(_told(view, "deleted"))

    # --- planning ----------------------------------------------------------------------------------------------------

    async def _plan(self, view: View, *, whole: bool = False) -> CopyPlan:
        """How this source version travels: `whole` in one request. Raises `ObjectTooLarge` before anything moves."""
        info, route, settings = view.source_info, view.route, view.route.settings
        assert info is not None
        assert view.mapped is not None
        capabilities = await self._stores.capabilities(settings.destination.store, settings.destination.bucket)
        server_side = view.source.store.identity == view.destination.store.identity and capabilities.server_side_copy
        parts = plan_parts(
            info.size_bytes,
            destination_limits=view.destination.store.limits,
            one_shot_max=MAX_MANIFEST_BYTES if whole else settings.parts.one_shot_max,
            part_size=settings.parts.part_size,
            concurrency=settings.parts.concurrency,
            streams=self._settings.worker.streams,
            server_side=server_side,
        )
        copy_id = new_copy_id(self._random)
        return CopyPlan(
            mode=parts.mode,
            server_side=server_side,
            source=info.version,
            checksums=info.checksums,
            condition=view.decision.condition,
            attributes=self._attributes(view, copy_id),
            losses=list(view.mapped.losses),
            copy_id=copy_id,
            epoch=route.epoch,
            reason=view.decision.reason,
            part_size=parts.part_size,
            part_count=parts.part_count,
            run_length=parts.run_length,
            runs_in_flight=parts.runs_in_flight,
        )

    def _small_plan(self, view: View, info: ObjectInfo) -> SmallPlan:
        assert view.mapped is not None
        copy_id, losses = new_copy_id(self._random), list(view.mapped.losses)
        attributes = self._attributes(view, copy_id)
        return SmallPlan(info.version, info.checksums, view.decision.condition, attributes, losses, copy_id, view.decision.reason)

    def _attributes(self, view: View, copy_id: str) -> Attributes:
        """The replica's attributes with the origin mark, which commits with the bytes."""
        info, mapped = view.source_info, view.mapped
        assert info is not None
        assert mapped is not None
        mark = make_mark(
            route=view.route.name,
            source=info,
            source_id=view.route.source_id,
            source_place=view.source_place,
            replica_place=view.replica_place,
            copy_id=copy_id,
        )
        source_etag = info.version.etag if view.destination.store.kind == "gcs" else ""
        metadata = with_mark(mapped.attributes.metadata, mark, source_etag=source_etag)
        return replace(mapped.attributes, metadata=metadata)


async def _recognised(route: Route, key: str, destination: Place, plan: CopyPlan | SmallPlan) -> Transferred | None:
    """As `recognise`; removes the temporary parts of an upload whose commit was cut off before the store did."""
    found = await recognise(route, key, destination, plan)
    if found is not None and plan.upload_id:
        with suppress(ObjectError):  # what stays is Housekeeping's
            await destination.store.abort_upload(destination.bucket, destination.key, plan.upload_id)
    return found


async def recognise(route: Route, key: str, destination: Place, plan: CopyPlan | SmallPlan) -> Transferred | None:
    """Our own commit of this plan, if that is what stands at the destination; else None."""
    info = await head_or_absent(destination)
    if info is None or info.size_bytes != plan.source.size_bytes:
        return None
    mark = own_mark(info, route.replica_place(key))
    if mark is None or mark.copy != plan.copy_id or same_checksums(info.checksums, plan.checksums) is False:
        return None
    compared = same_checksums(info.checksums, plan.checksums) is True
    return Transferred(info, info.checksums, level(source_compared=compared, destination_proved=compared), plan.source.size_bytes)


def _copied(route: Route, source: Place, destination: Place, plan: CopyPlan | SmallPlan, done: Transferred) -> ReplicateObjectResult:
    return ReplicateObjectResult(
        route=route.name,
        key=source.key,
        outcome="copied",
        reason=plan.reason,
        bytes_copied=done.bytes_sent,
        size_bytes=plan.source.size_bytes,
        verification=done.verification,
        crc32c=done.checksums.crc32c,
        source_version=plan.source.token,
        destination_key=destination.key,
        destination_version=done.info.version.token,
        source_listed=source_token(plan.source, source.store.kind),
        destination_listed=replica_token(done.info.version, destination.store.kind),
        losses=plan.losses[:MAX_LOSSES],
    )


def _pause(permit: Permit) -> Pause:
    if permit.held:
        return Pause(phase="held", reason="deletions-held", message=permit.reason, seconds=HELD_S)
    return Pause(phase="waiting", reason="deletions-paced", message=permit.reason, seconds=PACED_S)


def _told(view: View, outcome: Outcome) -> Settlement:
    """A result that the decision itself explains; nothing was sent."""
    source, replica = view.source_info, view.replica_info
    decision = view.decision
    result = _result(view.route, view.source.key, outcome, decision.reason, decision.message)
    agree = source is not None and replica is not None and same_checksums(source.checksums, replica.checksums) is True
    verification: Verification = "end-to-end" if agree and outcome in ("in_sync", "updated") else ""
    return Settlement(
        result=result.model_copy(
            update={
                "size_bytes": source.size_bytes if source else 0,
                "verification": verification,
                "source_version": _token(source),
                "destination_key": view.destination.key,
                "destination_version": _token(replica),
                "source_listed": source_token(source.version, view.source.store.kind) if source else "",
                "destination_listed": replica_token(replica.version, view.destination.store.kind) if replica else "",
                "losses": list(view.mapped.losses[:MAX_LOSSES]) if view.mapped else [],
            }
        )
    )


def _token(info: ObjectInfo | None) -> str:
    return info.version.token if info else ""


def _result(route: Route, key: str, outcome: Outcome, reason: str, message: str) -> ReplicateObjectResult:
    return ReplicateObjectResult(route=route.name, key=key, outcome=outcome, reason=reason, message=message)
