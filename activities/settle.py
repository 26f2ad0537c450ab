"""One look at one key, carried through as far as one step can: decide, then finish it or plan it.

Used by the event lane, one object at a time, and by whatever else copies small objects. Everything here acts on a fresh
view of both sides; every write is conditional on what that view saw.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace

from activities.deletions import Permits
from activities.dependencies import Dependencies
from activities.grace import seen_through
from activities.pairs import Pairs
from activities.plans import Plans, SmallPlan, carried_out, recognise, recognise_and_tidy
from activities.results import COLLECTED, copied, pause_for, pause_of_hold, plain_result, told
from activities.tide import SMALL, Tide
from activities.unsure import Unsure
from ledger.ledger import Ledger
from replication.compare import replica_token
from replication.errors import (
    DestinationForeign,
    IntegrityMismatch,
    NotSupported,
    ObjectError,
    PreconditionFailed,
    ServerFault,
    SourceArchived,
    StoreTimeout,
)
from replication.limits import Capabilities
from replication.manifests.rule import Rule
from replication.mark import parse_mark
from replication.models import (
    Attributes,
    Checksums,
    Condition,
    CopyPlan,
    ObjectInfo,
    ReplicateObjectResult,
    SettleInput,
    Settlement,
    Version,
)
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
RESTORE_DAYS = 7
"""How long a restored object stays readable: longer than the longest wait between two looks."""


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
        self._plans = Plans(settings, stores)
        self._unsure = Unsure()
        self._ledger = ledger

    def route(self, name: str) -> Route:
        """Raises `RouteUnknown`."""
        return self._settings.route(name)

    async def look(self, route: Route, key: str) -> View:
        """Both sides, and what settling would do about them. Only reads."""
        return await self._pairs.look(route, key)

    async def settle(self, route: Route, asked: SettleInput, meter: Meter) -> Settlement:
        """Looks, decides and acts; returns the plan of a copy that is too large for one step, what a manifest waits for, or
        the pause before a deletion."""
        key = asked.key
        if reason := route.skip_reason(key):
            return Settlement(result=plain_result(route, key, "kept", reason, SKIP_REASONS[reason]))
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
            if view.source_info is not None:
                await self.ask_archive(view.route, view.source, view.source_info.version)
            raise

    async def _act(self, view: View, meter: Meter) -> Settlement:
        decision = view.decision
        match decision.action:
            case "copy":
                return await self._copy(view, meter)
            case "update":
                return await self._update(view, meter)
            case "wait":
                raise SourceArchived(decision.message)
            case "block":
                raise DestinationForeign(decision.message)
            case "conflict":
                return await self._recorded(told(view, "conflict"))
            case "keep":
                return await self._recorded(told(view, "kept"))
            case _:
                return await self._recorded(await self._made_before(view) or told(view, "in_sync"))

    async def _made_before(self, view: View) -> Settlement | None:
        """The copy that makes the replica right, if this process made it and could not know, and nobody has recorded it since."""
        route, key, source, replica = view.route, view.source.key, view.source_info, view.replica_info
        if source is None or replica is None or not self.is_unsure(route, key):
            return None
        receipt, plan = await self._ledger.find(route.name, key), self._unsure.copy_of(route.name, key, source.version)
        self._unsure.forget(route.name, key)
        done = carried_out(replica, view.replica_place, plan) if plan is not None else None
        is_recorded = receipt is not None and receipt.destination_version == replica.version.token
        if plan is None or done is None or is_recorded:
            return None
        return Settlement(result=copied(route, view.source, view.destination, plan, done))

    def is_unsure(self, route: Route, key: str) -> bool:
        """Whether a copy of this process may stand there that nobody has on record: only a look can tell."""
        return (route.name, key) in self._unsure

    def _id_of_try(self, view: View, version: Version) -> str:
        """The id of such a copy of the same version, so that its commit is recognised as that of another try; "" for a new one."""
        before = self._unsure.copy_of(view.route.name, view.source.key, version)
        return before.copy_id if before is not None else ""

    async def ask_archive(self, route: Route, source: Place, version: Version) -> None:
        """Asks for a readable copy of the source where the route says so; asking again changes nothing."""
        if route.settings.restore:
            await source.store.request_restore(source.bucket, source.key, version, days=RESTORE_DAYS)

    async def _recorded(self, settlement: Settlement) -> Settlement:
        if settlement.result is not None:
            await self._record(settlement.result)
        return settlement

    # --- acting ------------------------------------------------------------------------------------------------------

    async def _copy(self, view: View, meter: Meter) -> Settlement:
        if view.decision.keep_beside:
            await self._pairs.keep_beside(view)
        manifest = view.route.rules is not None and view.route.rules.rule_of(view.source.key) is not None
        assert view.source_info is not None
        plan = await self._plans.of_object(view, whole=manifest, copy_id=self._id_of_try(view, view.source_info.version))
        if plan.mode == "parts":
            store, key = view.destination.store, view.destination.key
            upload_id = await store.begin_upload(view.destination.bucket, key, plan.attributes)
            return Settlement(plan=plan.model_copy(update={"upload_id": upload_id}))
        if manifest or plan.source.size_bytes <= self.inline_max:
            return await self.copy_whole(view.route, view.source.key, plan, meter)
        return Settlement(plan=plan)

    async def give_back(self, route: Route, key: str, plan: CopyPlan) -> None:
        """Ends what was begun for a plan that nobody here carries out: a workflow prepares the copy anew."""
        if plan.upload_id:
            await self._stores.get(route.destination.store).abort_upload(
                route.destination.bucket, route.destination_key(key), plan.upload_id
            )

    async def copy_whole(self, route: Route, key: str, plan: CopyPlan, meter: Meter) -> Settlement:
        """Carries out a plan of mode `object`: one commit, verified, and the source looked at once more."""
        source, destination = places(route, key, self._stores)
        capabilities = await self._stores.capabilities(route.settings.destination.store, destination.bucket)
        send = self._server_side if plan.server_side else self._streamed

        async def write() -> Transferred:
            return await send(source, destination, plan, capabilities, meter)

        return await self.commit_settled(route, source, destination, plan, write, capabilities.conditional_writes)

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
            plan = self._plans.of_small(view, info, self._id_of_try(view, info.version))
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
        return await self._recorded(Settlement(result=copied(route, source, destination, plan, done)))

    async def commit_settled(
        self, route: Route, source: Place, destination: Place, plan: CopyPlan, write: Callable[[], Awaitable[Transferred]], fenced: bool
    ) -> Settlement:
        """Commits and records a copy, both or neither as far as that is up to this process, and looks at the source once more."""

        async def commit() -> Settlement:
            done = await self.commit(route, source.key, destination, plan, write, fenced)
            return await self._recorded(Settlement(result=copied(route, source, destination, plan, done)))

        settlement = await seen_through(commit())
        return settlement.model_copy(update={"dirty": await _has_changed(source, plan.source)})

    async def commit(
        self,
        route: Route,
        key: str,
        destination: Place,
        plan: CopyPlan | SmallPlan,
        write: Callable[[], Awaitable[Transferred]],
        fenced: bool,
    ) -> Transferred:
        """Runs a write; recognises our own commit behind a lost answer, and that of an attempt before; looks before and after where
        nothing fences it."""

        async def looked_before() -> Transferred:
            await check_fence(destination, plan.condition)
            return await write()

        done = await self._recognised(route, key, destination, plan, write if fenced else looked_before)
        if not fenced and await recognise(route, key, destination, plan) is None:
            raise PreconditionFailed("another write took the place of this one, and the endpoint has no conditional writes")
        return done

    async def _recognised(
        self, route: Route, key: str, destination: Place, plan: CopyPlan | SmallPlan, write: Callable[[], Awaitable[Transferred]]
    ) -> Transferred:
        """Where neither the write nor the look after it was answered, the next look at the key knows of this copy."""

        async def look() -> Transferred | None:
            try:
                return await recognise_and_tidy(route, key, destination, plan)
            except ObjectError:
                self._unsure.keep(route.name, key, plan)
                raise

        try:
            done = await commit_recognised(write, look)
        except asyncio.CancelledError:
            self._unsure.keep(route.name, key, plan)
            raise
        self._unsure.forget(route.name, key)
        return done

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
        assert view.replica_info is not None
        try:
            return await seen_through(self._commit_update(view, view.replica_info.version))
        except NotSupported:
            decision = replace(view.decision, action="copy", condition=Condition.match(view.replica_info.version))
            return await self._copy(replace(view, decision=decision), meter)

    async def _commit_update(self, view: View, version: Version) -> Settlement:
        destination, attributes = view.destination, self._plans.attributes(view)
        info = await commit_recognised(
            lambda: destination.store.update_attributes(destination.bucket, destination.key, version, attributes),
            lambda: _updated(view, attributes),
        )
        settlement = told(view, "updated")
        assert settlement.result is not None
        now = {"destination_version": info.version.token, "destination_listed": replica_token(info.version, destination.store.kind)}
        return await self._recorded(settlement.model_copy(update={"result": settlement.result.model_copy(update=now)}))

    async def _delete(self, view: View, absent_for_s: float) -> Settlement:
        """After the hold, and with the route's permit, the source is looked at again before the replica goes."""
        assert view.replica_info is not None
        if self._collects:
            return Settlement(pause=COLLECTED)
        hold_s = view.route.settings.deletions.hold or 0.0
        if hold_s and absent_for_s < hold_s:
            return Settlement(pause=pause_of_hold(hold_s, hold_s - absent_for_s))
        if self._permits is not None:
            permit = await self._permits.ask(view.route.name, view.source.key)
            if not permit.granted:
                return Settlement(pause=pause_for(permit))
        if await head_or_absent(view.source) is not None:
            raise PreconditionFailed("the source exists again")
        return await seen_through(self._commit_deletion(view, view.replica_info.version))

    async def _commit_deletion(self, view: View, version: Version) -> Settlement:
        """A replica that is gone behind a lost answer was deleted here."""
        try:
            await view.destination.store.delete(view.destination.bucket, view.destination.key, version)
        except (ServerFault, StoreTimeout):
            if await head_or_absent(view.destination) is not None:
                raise
        return await self._recorded(told(view, "deleted"))


async def _has_changed(source: Place, copied: Version) -> bool:
    """Whether the source is not what was copied any more, or does not say so now."""
    try:
        now = await head_or_absent(source)
    except ObjectError:
        return True
    return now is None or now.version.token != copied.token or now.version.revision != copied.revision


async def _updated(view: View, attributes: Attributes) -> ObjectInfo | None:
    """The replica, if its mark is that of this very update."""
    info = await head_or_absent(view.destination)
    return info if info is not None and parse_mark(info.attributes.metadata) == parse_mark(attributes.metadata) else None
