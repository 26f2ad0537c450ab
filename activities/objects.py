"""The activities of `ReplicateObject`. Each names its route, checks that the plan still belongs to it, and does one thing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from temporalio import activity

from activities import metrics
from activities._progress import PartRecord, Pulse, pulse
from activities.deletions import Permits
from activities.recording import is_told, next_step, quarantined_for, record
from activities.results import left_to_passes
from activities.settle import Settler
from activities.steering import Steerings
from activities.streams import Streams, Ways
from activities.turns import Turns
from ledger.ledger import Ledger
from replication.errors import IntegrityMismatch, OverBudget, RouteChanged, SourceArchived, UploadCorrupt
from replication.keys import check_key
from replication.limits import Capabilities
from replication.models import (
    AbortInput,
    Checksums,
    CompleteInput,
    CopyObjectInput,
    CopyPlan,
    Outcome,
    Part,
    PartRunInput,
    PartRunResult,
    QuarantineInput,
    ReplicateObjectResult,
    SettleInput,
    Settlement,
    Waiting,
)
from replication.parts import part_range, run_range
from replication.resume import KnownPart, resumable
from replication.retries import WAIT_MAX_S
from replication.routes import Route
from replication.settings import Settings
from replication.verify import companion_kind, level, same_checksums
from stores.checksum import combine
from stores.observe import places
from stores.pace import Budget, current_budget
from stores.registry import Stores
from stores.transfer import Place, SentPart, Transferred, copy_part, prove_stored, send_part

AwaitObjects = Callable[[str, Sequence[str], str, float], Awaitable[None]]
"""`(route, keys, workflow id, seconds)`: starts or joins the workflows of the keys, which will say to that workflow when
their replicas stand."""
SETTLING = 4
"""Requests that looking at both sides and writing a small object take, as a pass counts them too."""
SHORT_S = 1.0
"""How long a change waits for its turn with a slot in its hands."""


class ObjectActivities:
    """Built once per worker, around the settings and the stores."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        ledger: Ledger,
        permits: Permits,
        steerings: Steerings,
        turns: Turns,
        ways: Ways,
        await_objects: AwaitObjects,
    ) -> None:
        self._parts_at_once = settings.worker.streams
        self._ways = ways
        self._turns = turns
        self._await_objects = await_objects
        self._stores = stores
        self._ledger = ledger
        self._steerings = steerings
        self._settler = Settler(settings, stores, ledger, permits, record=self._record)

    async def _record(self, result: ReplicateObjectResult) -> None:
        """Of a plan that was carried out by an attempt before this one, the copy is recognised, and may be on record."""
        info = activity.info()
        again = info.attempt > 1 and result.outcome == "copied"
        told = again and await is_told(self._ledger, result, info.scheduled_time.timestamp())
        await record(self._ledger, result, info.workflow_id or "", told=told)

    @activity.defn(name="settle_object")
    async def settle_object(self, input: SettleInput) -> Settlement:
        """Looks at both sides, decides, and finishes whatever one small step can finish."""
        check_key(input.key)
        route = self._settler.route(input.route)
        async with nullcontext() if input.cause == "pass" else self._following(route):
            settlement = await self._settler.settle(route, input, pulse().advance)
        if settlement.waiting is not None:
            return settlement.model_copy(update={"waiting": await self._registered(route, settlement.waiting, input.waiting)})
        if settlement.pause is not None and input.cause == "pass" and not input.absent_for_s:
            settlement = left_to_passes(route, input.key, settlement.pause)
        return _counted(route, settlement, input.changed_at)

    @asynccontextmanager
    async def _following(self, route: Route) -> AsyncIterator[None]:
        """A change is looked at in the block."""
        with self._turns.following():
            async with self._steerings.paced("", route):
                await turn_came(current_budget())
                yield

    async def _registered(self, route: Route, waiting: Waiting, before: Waiting | None) -> Waiting:
        """Asks the workflows of the first missing keys to say when they stand; those that were asked before know it."""
        asked = set(before.awaited) if before and before.version == waiting.version else set()
        new = [key for key in waiting.first if key not in asked]
        await self._await_objects(route.name, new, activity.info().workflow_id or "", waiting.deadline_s)
        return waiting.model_copy(update={"awaited": waiting.first})

    @activity.defn(name="copy_object")
    async def copy_object(self, input: CopyObjectInput) -> Settlement:
        """Copies a whole object in one request."""
        route = self._planned(input.route, input.plan)
        source, _ = places(route, input.key, self._stores)
        async with self._steerings.paced(input.paced_by, route), self._readable(route, source, input.plan):
            settlement = await self._settler.copy_whole(route, input.key, input.plan, pulse().advance)
        return _counted(route, settlement, input.changed_at)

    @activity.defn(name="copy_part_run")
    async def copy_part_run(self, input: PartRunInput) -> PartRunResult:
        """Copies a run of parts, several at once; another attempt sends only what is not known to be stored."""
        route, plan = self._planned(input.route, input.plan), input.plan
        source, destination = places(route, input.key, self._stores)
        capabilities = await self._stores.capabilities(route.settings.destination.store, destination.bucket)
        ranges = {number: part_range(plan, plan.source.size_bytes, number) for number in range(input.first, input.last + 1)}
        known = await self._known_parts(destination, plan, ranges, capabilities)
        todo = [number for number in ranges if number not in known]
        async with self._steerings.paced(input.paced_by, route), self._readable(route, source, plan):
            sent = await self._send_parts(source, destination, plan, ranges, todo, self._streams(route, of_pass=bool(input.paced_by)))
        known.update(sent)
        metrics.sent(route.name, sum(known[number].size_bytes for number in todo))
        companion = companion_kind(plan.checksums)
        return PartRunResult(
            crc32c=combine("crc32c", [(known[n].crc32c, known[n].size_bytes) for n in ranges]),
            companion=combine(companion, [(known[n].companion, known[n].size_bytes) for n in ranges]) if companion else None,
            bytes_copied=0 if plan.server_side else sum(known[number].size_bytes for number in todo),
            resumed_parts=len(ranges) - len(todo),
        )

    @activity.defn(name="complete_copy")
    async def complete_copy(self, input: CompleteInput) -> Settlement:
        """Publishes the upload if its parts are the pinned source and the fence holds; then verifies what stands there."""
        route, plan = self._planned(input.route, input.plan), input.plan
        source, destination = places(route, input.key, self._stores)
        ours = _object_checksums(input)
        if same_checksums(ours, plan.checksums) is False:
            raise UploadCorrupt("the parts read do not have the checksum that the source publishes for this version")

        capabilities = await self._stores.capabilities(route.settings.destination.store, destination.bucket)

        async def publish() -> Transferred:
            return await self._publish(destination, plan, ours, capabilities)

        settlement = await self._settler.commit_settled(route, source, destination, plan, publish, capabilities.conditional_completes)
        assert settlement.result is not None
        result = settlement.result.model_copy(update={"bytes_copied": input.bytes_copied})
        metrics.settled(route.name, result.outcome, 0)
        _followed(route, result.outcome, input.changed_at)
        return settlement.model_copy(update={"result": result})

    @activity.defn(name="abort_copy")
    async def abort_copy(self, input: AbortInput) -> None:
        """Removes an upload and its parts, under whatever epoch it was begun."""
        _, destination = places(self._settler.route(input.route), input.key, self._stores)
        await destination.store.abort_upload(destination.bucket, destination.key, input.plan.upload_id)

    @activity.defn(name="quarantine_object")
    async def quarantine_object(self, input: QuarantineInput) -> None:
        """Keeps that the object rests, and why, until it is settled."""
        step = next_step(input.reason, input.rests)
        await self._ledger.record(quarantined=[quarantined_for(input.route, input.key, input.reason, input.message, step)])

    @asynccontextmanager
    async def _readable(self, route: Route, source: Place, plan: CopyPlan) -> AsyncIterator[None]:
        """What was restored is so for days only: a copy that takes longer waits once more, for what it asks for here."""
        try:
            yield
        except SourceArchived:
            await self._settler.ask_archive(route, source, plan.source)
            raise

    # --- parts -------------------------------------------------------------------------------------------------------

    def _streams(self, route: Route, *, of_pass: bool) -> Streams:
        return self._ways.streams(route.settings.source.store, route.settings.destination.store, of_pass=of_pass)

    async def _known_parts(
        self, destination: Place, plan: CopyPlan, ranges: dict[int, tuple[int, int]], capabilities: Capabilities
    ) -> dict[int, KnownPart]:
        """What an earlier attempt stored and is still listed. The first attempt has nothing to ask for."""
        if activity.info().attempt == 1:
            return {}
        recorded = [KnownPart(p.number, p.size_bytes, p.etag, p.crc32c, p.companion) for p in pulse().details.parts]
        listed = await destination.store.list_parts(destination.bucket, destination.key, plan.upload_id)
        sizes = {number: length for number, (_, length) in ranges.items()}
        vouched = plan.server_side or capabilities.wrong_parts_refused
        known = resumable(listed, recorded, sizes, trusted=vouched and companion_kind(plan.checksums) is None)
        pulse().details.parts = [_record(part) for part in known.values()]
        return known

    async def _send_parts(
        self,
        source: Place,
        destination: Place,
        plan: CopyPlan,
        ranges: dict[int, tuple[int, int]],
        todo: list[int],
        streams: Streams,
    ) -> dict[int, KnownPart]:
        left, sent = list(todo), dict[int, KnownPart]()

        async def send_on() -> None:
            while left:
                number = left.pop(0)
                part = await self._send(source, destination, plan, number, ranges[number], streams)
                sent[number] = KnownPart(number, part.part.size_bytes, part.part.etag, part.crc32c, part.companion)
                pulse().record(_record(sent[number]))

        try:
            async with asyncio.TaskGroup() as sending:
                for _ in range(min(self._parts_at_once, len(todo))):
                    sending.create_task(send_on())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        return sent

    async def _send(
        self, source: Place, destination: Place, plan: CopyPlan, number: int, span: tuple[int, int], streams: Streams
    ) -> SentPart:
        offset, length = span
        budget = current_budget()
        await budget.go_on(requests=1 if plan.server_side else 2)
        if plan.server_side:
            sent = await copy_part(source, destination, plan.upload_id, number, pin=plan.source, offset=offset, length=length)
            pulse().advance(length)
            return sent
        # What has a limit of its own would only stand in the way of the others.
        async with streams.stream() if not budget.limits_bytes else nullcontext(_unwatched) as moved:
            return await send_part(
                source,
                destination,
                plan.upload_id,
                number,
                pin=plan.source,
                checksums=plan.checksums,
                offset=offset,
                length=length,
                meter=partial(_passed, pulse(), moved),
            )

    # --- completing --------------------------------------------------------------------------------------------------

    async def _publish(self, destination: Place, plan: CopyPlan, ours: Checksums, capabilities: Capabilities) -> Transferred:
        store, bucket, key = destination.store, destination.bucket, destination.key
        parts = await store.list_parts(bucket, key, plan.upload_id)
        _check_parts(parts, plan)
        enforced = capabilities.part_checksum != "none" and not plan.server_side
        try:
            info = await store.complete_upload(bucket, key, plan.upload_id, parts, plan.attributes, plan.condition, crc32c=ours.crc32c)
            proved = await prove_stored(destination, info, ours, enforced=enforced)
        except IntegrityMismatch as error:
            raise UploadCorrupt(str(error)) from error
        compared = same_checksums(ours, plan.checksums) is True
        return Transferred(info, ours, level(source_compared=compared, destination_proved=proved), plan.source.size_bytes)

    def _planned(self, name: str, plan: CopyPlan) -> Route:
        """The plan's route, unless it was edited since the plan was made."""
        route = self._settler.route(name)
        if route.epoch != plan.epoch:
            raise RouteChanged(f"the settings of route {name} changed since this copy was planned")
        return route


async def turn_came(budget: Budget) -> None:
    """Waits for the turn of a change at the stores; gives its slot back meanwhile where that takes longer (`OverBudget`).

    A turn that is further ahead than an activity may wait for its next attempt is not taken: the change asks again then.
    """
    if pulse().details.has_turn:
        return
    wait_s = budget.reserve(requests=SETTLING)
    if wait_s > WAIT_MAX_S:
        budget.reserve(requests=-SETTLING)
    else:
        pulse().details.has_turn = True
    if wait_s > SHORT_S:
        raise OverBudget(
            f"changes before this one ask its stores for all that their limits allow, for {wait_s:.0f} s more", retry_after_s=wait_s
        )
    await asyncio.sleep(wait_s)


def _passed(advancing: Pulse, moved: Callable[[int], None], size_bytes: int) -> None:
    advancing.advance(size_bytes)
    moved(size_bytes)


def _unwatched(_: int) -> None:
    """Bytes of a stream that is not shared."""


def _record(part: KnownPart) -> PartRecord:
    return PartRecord(number=part.number, size_bytes=part.size_bytes, etag=part.etag, crc32c=part.crc32c, companion=part.companion)


def _object_checksums(input: CompleteInput) -> Checksums:
    """The whole object's checksums from those of the runs."""
    plan, size = input.plan, input.plan.source.size_bytes
    lengths = [run_range(plan, size, index)[1] for index in range(plan.run_count)]
    crc32c = combine("crc32c", zip(input.run_crc32c, lengths, strict=True))
    kind = companion_kind(plan.checksums)
    other = combine(kind, zip(input.run_companion, lengths, strict=True)) if kind and input.run_companion else None
    return Checksums(crc32c=crc32c, crc64nvme=other if kind == "crc64nvme" else None, crc32=other if kind == "crc32" else None)


def _check_parts(parts: list[Part], plan: CopyPlan) -> None:
    """The stored parts are exactly the planned ones, by number and length."""
    planned = {number: part_range(plan, plan.source.size_bytes, number)[1] for number in range(1, plan.part_count + 1)}
    stored = {part.number: part.size_bytes for part in parts}
    if stored != planned:
        wrong = next(n for n in sorted(planned.keys() | stored.keys()) if planned.get(n) != stored.get(n))
        raise UploadCorrupt(f"part {wrong} is stored with {stored.get(wrong)} bytes, planned were {planned.get(wrong)}")


def _counted(route: Route, settlement: Settlement, changed_at: float | None) -> Settlement:
    if settlement.result is not None:
        metrics.settled(route.name, settlement.result.outcome, settlement.result.bytes_copied)
        _followed(route, settlement.result.outcome, changed_at)
    return settlement


def _followed(route: Route, outcome: Outcome, changed_at: float | None) -> None:
    if changed_at is not None and outcome in ("copied", "updated", "deleted"):
        metrics.followed(route.name, max(0.0, time.time() - changed_at))
