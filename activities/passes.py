"""The activities of a pass: begin, split, scan, weigh and make deletions, end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from itertools import pairwise
from typing import Any, cast

from temporalio import activity

from activities._progress import pulse
from activities.deletions import Permits
from activities.examine import READERS, Verify
from activities.gate import Gate, KeptOut
from activities.grace import GRACE_S
from activities.notices import SILENT, Notices
from activities.outcomes import EVERYBODYS, Outcomes, Plan, Repair
from activities.recording import RECEIVED, audit_of, quarantined, record
from activities.scan import Scan
from activities.settle import Settler
from activities.splitting import Splitter
from activities.steering import Steerings
from activities.turns import Turns
from ledger.ledger import Ledger
from ledger.rows import PassRecord, PendingDeletion
from replication.errors import ObjectError
from replication.ids import pass_workflow_id
from replication.models import ReplicateObjectResult, SettleInput
from replication.notices import held_notice, pass_notice
from replication.passes import (
    BeginPassInput,
    Begun,
    EndPassInput,
    ExtraInput,
    ExtraResult,
    Filters,
    KeyRange,
    Mode,
    ScanInput,
    ScanResult,
    SplitInput,
    WeighInput,
    held_reason,
)
from replication.settings import Settings
from stores.registry import Stores

DELETED_AT_ONCE = 16
DELETIONS_PER_STEP = 1_000
DELETION_REQUESTS = 3
"""A look at each side, and the deletion."""
FINDINGS_KEPT_S = 30 * 86_400.0
"""How long the lines of plans and verifications are kept."""
CLOCKS_S = 900.0
"""How far a store's clock may be off: what changed so long before a verification began counts as changed since."""


class PassActivities:
    """Built once per worker."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        ledger: Ledger,
        permits: Permits,
        steerings: Steerings,
        turns: Turns,
        notices: Notices = SILENT,
    ) -> None:
        self._settings = settings
        self._notices = notices
        self._stores = stores
        self._ledger = ledger
        self._steerings = steerings
        self._turns = turns
        self._readers = asyncio.Semaphore(READERS)
        self._collecting = Settler(settings, stores, ledger, None, record=nothing_recorded, collects=True, pace=turns.pace)
        self._deleting = Settler(settings, stores, ledger, permits, record=self._record)
        self._approved = Settler(settings, stores, ledger, None, record=self._record)

    @activity.defn(name="begin_pass")
    async def begin_pass(self, input: BeginPassInput) -> Begun:
        """Records that the pass runs, and proves that both sides can be listed."""
        route = self._settings.route(input.route)
        await self._ledger.begin_pass(
            PassRecord(
                pass_id=input.pass_id,
                route=input.route,
                mode=input.mode,
                state="running",
                started_at=input.started_at,
                workflow=activity.info().workflow_id or "",
                scope="route" if input.whole else "",
            )
        )
        for location in (route.source, route.destination):
            await self._stores.capabilities(
                location.store, location.bucket, writable=location is route.destination and input.mode == "repair"
            )
            async for _ in self._stores.get(location.store).list_objects(location.bucket, location.prefix, page_size=1):
                break
        if input.mode == "verify":
            await self._ledger.drop_leaves(input.route, not_of_pass=input.pass_id)
        await self._ledger.drop_findings(older_than=time.time() - FINDINGS_KEPT_S)
        after = input.start_after[len(route.source.prefix) :] if input.start_after.startswith(route.source.prefix) else ""
        last = await self._ledger.last_verified(input.route) if input.since_last else None
        return Begun(
            manifests=route.rules is not None,
            mirror=route.settings.deletes_mode == "mirror",
            keys=KeyRange(after=after),
            since=last - CLOCKS_S if last is not None else None,
        )

    @activity.defn(name="split_range")
    async def split_range(self, input: SplitInput) -> list[KeyRange]:
        """The range in at most `pieces` parts, cut where the source's keys begin to differ."""
        source = self._settings.route(input.route).source
        splitter = Splitter(self._stores.get(source.store), source.bucket, source.prefix)
        cuts = await splitter.cuts(input.prefix, input.keys, input.pieces)
        bounds = [input.keys.after, *cuts, input.keys.up_to]
        return [KeyRange(after=after, up_to=up_to) for after, up_to in pairwise(bounds)]

    @activity.defn(name="scan_range")
    async def scan_range(self, input: ScanInput) -> ScanResult:
        """One stretch of a range; another attempt goes on where this one left off. Cancelled, it tells what it has done."""
        route = self._settings.route(input.route)
        async with self._steerings.gate(pass_workflow_id(input.mode, input.route), input.number, route, self._turns) as gate:
            scan = Scan(input, route, self._stores, self._ledger, self._outcomes(input), gate)
            pulse().so_far = lambda: scan.recorded if scan.recorded.cursor != input.keys.after else None
            try:
                return await scan.run()
            except asyncio.CancelledError:
                if not _is_asked_to_end():
                    raise
                return scan.recorded

    def _outcomes(self, input: ScanInput) -> Outcomes:
        route = self._settings.route(input.route)
        paired, workflow = input.route in self._settings.counterparts, activity.info().workflow_id or ""
        if input.mode == "repair":
            return Repair(input, route, self._stores, self._collecting, paired=paired, workflow=workflow)
        if input.mode == "verify":
            return Verify(input, route, self._stores, self._ledger, self._readers, paired=paired, workflow=workflow)
        return Plan(input, route, self._stores, self._collecting, paired=paired, workflow=workflow)

    # --- deletions ---------------------------------------------------------------------------------------------------

    @activity.defn(name="weigh_deletions")
    async def weigh_deletions(self, input: WeighInput) -> str:
        """Why the deletions that a pass collected wait for an operator; "" where they may go. Forgets those that it looked for and
        did not find."""
        await self._forget_returned(input)
        count = await self._ledger.pending_count(input.route, pass_id=input.pass_id)
        held = held_reason(count, input.counters, self._settings.route(input.route).settings.deletions)
        if held:
            await self._notices.tell(held_notice(input.route, held, input.pass_id, time.time()))
        return held

    async def _forget_returned(self, input: WeighInput) -> None:
        """Deletions of keys that the pass did not look at stay, and their hold goes on."""
        if input.filters == Filters():
            await self._ledger.drop_deletions(input.route, not_of_pass=input.pass_id)
        if input.filters == Filters() or input.filters.by_object or input.filters.since is not None:
            return
        filters, below, after = input.filters, len(self._settings.route(input.route).source.prefix), ""
        while pending := await self._ledger.pending_deletions(input.route, after=after, limit=DELETIONS_PER_STEP):
            after = pending[-1].key
            seen = [one.key for one in pending if one.key > filters.start_after and filters.covers(one.key[below:])]
            await self._ledger.drop_deletions(input.route, seen, not_of_pass=input.pass_id)

    @activity.defn(name="delete_extra")
    async def delete_extra(self, input: ExtraInput) -> ExtraResult:
        """Looks at collected replicas again, one by one, and deletes those whose source is proved absent. Where some are held, or
        none may begin, the rest of the page is for another attempt, which counts what waits or fails. Cancelled, it tells what it
        has done."""
        pending = await self._ledger.pending_deletions(input.route, pass_id=input.pass_id, after=input.after, limit=DELETIONS_PER_STEP)
        result = ExtraResult(cursor=pending[-1].key if pending else input.after, ended=len(pending) < DELETIONS_PER_STEP)
        settler, slots = self._approved if input.approved else self._deleting, asyncio.Semaphore(DELETED_AT_ONCE)
        paced = self._steerings.gate(pass_workflow_id("repair", input.route), 0, self._settings.route(input.route), self._turns)
        tally, failures = pulse().details.deletions, list[Exception]()

        async def look_at(one: PendingDeletion) -> str:
            """Once one has failed for a reason that is everybody's, no other begins."""
            async with slots:
                try:
                    return "" if failures else await self._delete(settler, gate, one, tally)
                except Exception as error:
                    failures.append(error)
                    return ""

        def so_far() -> ExtraResult:
            return ExtraResult(cursor=input.after, deleted=tally.get("deleted", 0), kept=tally.get("kept", 0))

        pulse().so_far = lambda: so_far() if tally else None
        async with paced as gate:
            try:
                told = await _told(map(look_at, pending), stop=lambda: failures.append(KeptOut()))
            except asyncio.CancelledError:
                if not _is_asked_to_end():
                    raise
                return so_far()
        if failures and not isinstance(failures[0], KeptOut):
            raise failures[0]
        held = next((look.removeprefix("held: ") for look in told if look.startswith("held: ")), "")
        if failures or held:
            return so_far().model_copy(update={"held": held})
        counted = {"deleted": so_far().deleted, "kept": so_far().kept}
        return result.model_copy(update={**counted, "failed": told.count("failed"), "waiting": told.count("waiting")})

    async def _delete(self, settler: Settler, gate: Gate, pending: PendingDeletion, tally: dict[str, int]) -> str:
        """Why it goes on waiting or failed; what is settled is counted in `tally`. Raises what is not the object's own failure."""
        async with gate.admit(0, DELETION_REQUESTS, rests=True):
            route, absent_for_s = self._settings.route(pending.route), time.time() - pending.since
            asked = SettleInput(route=pending.route, key=pending.key, cause="pass", absent_for_s=absent_for_s)
            try:
                settlement = await settler.settle(route, asked, pulse().advance)
            except EVERYBODYS:
                raise
            except ObjectError as error:
                await self._ledger.record(quarantined=[quarantined(pending.route, pending.key, error)])
                return "failed"
            pulse().touch()
        if settlement.plan is not None:  # it is back, and too large for one step
            await settler.give_back(route, pending.key, settlement.plan)
        if settlement.pause is not None:
            return f"held: {settlement.pause.message}" if settlement.pause.phase == "held" else "waiting"
        await self._ledger.drop_deletions(pending.route, [pending.key])
        outcome = "deleted" if settlement.result is not None and settlement.result.outcome == "deleted" else "kept"
        tally[outcome] = tally.get(outcome, 0) + 1
        return ""

    async def _record(self, result: ReplicateObjectResult) -> None:
        workflow = activity.info().workflow_id or ""
        if result.outcome in RECEIVED or result.outcome == "conflict":  # its source came back
            return await record(self._ledger, result, workflow)
        entry = audit_of(result, workflow)
        gone = [(result.route, result.key)]
        await self._ledger.record(audit=[entry] if entry else [], forgotten=gone, released=gone)

    # --- the end -----------------------------------------------------------------------------------------------------

    @activity.defn(name="end_pass")
    async def end_pass(self, input: EndPassInput) -> None:
        """Records how the pass ended, and tells whoever wants to know."""
        await self._ledger.end_pass(input.pass_id, state=input.state, reason=input.reason, counters=input.counters.model_dump())
        record = await self._ledger.find_pass(input.pass_id)
        if record is not None and record.mode != "plan":
            ended = record.ended_at or time.time()
            notice = pass_notice(input.route, cast(Mode, record.mode), input.pass_id, input.state, input.reason, input.counters, ended)
            await self._notices.tell(notice)


async def nothing_recorded(_: ReplicateObjectResult) -> None:
    """The scan records in batches what its settler tells one by one."""


def _is_asked_to_end() -> bool:
    """Whether the workflow cancels the running activity; otherwise another attempt follows, or runs already."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested


async def _told(looks: Iterable[Coroutine[Any, Any, str]], *, stop: Callable[[], None]) -> list[str]:
    """What the looks answer, without the empty answers. Cancelled, it has `stop` let no other begin, and gives those under way
    `GRACE_S`: what is deleted then is on record, and counted."""
    running = [asyncio.create_task(look) for look in looks]
    try:
        return [look for look in await asyncio.shield(asyncio.gather(*running)) if look]
    except asyncio.CancelledError:
        stop()
        await asyncio.wait(running, timeout=GRACE_S)
        raise
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
