"""What the tests of every step share: objects with a route each, one of them for every point at which a worker can die."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.common import WorkflowIDConflictPolicy

from ledger.ledger import Ledger
from replication.ids import object_workflow_id
from replication.models import ReplicateObjectInput, ReplicateObjectResult
from tests.e2e.sides import GcsSide, S3Side, Seen, Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import LOCK, Rig, noise, sha256, sweep
from tests.lab import Handle
from tests.poll import eventually
from tests.proxy import Exchange, FaultProxy, Rule, Stall, When
from workflows.object import ReplicateObject

LABEL = {"colour": "red"}
IDS = re.compile(r"(?<=[?&])(uploadId|generation|if\w*Match)=[^&]*|%2Fparts%2F[0-9a-f]{32}")
"""What differs from one run to the next in the address of a request."""
NO_PROOF = r"(?!o\?prefix=\.drayage%2F&maxResults=1&)"
"""The request that proves that a bucket is there is made once in a while."""


@dataclass(frozen=True)
class Kind:
    """What a route has to do: something has changed at the source, where the replica is one of `first` bytes, or absent."""

    name: str
    outcome: str
    first: int | None = None
    then: int = 0
    planned: bool = False
    """Whether its plan is kept in the workflow, so that its commit is recognised after a crash."""


PUT = Kind("put", "copied", then=700)
OVERWRITE = Kind("overwrite", "copied", first=500, then=700)
DELETE = Kind("delete", "deleted", first=500)
RELABEL = Kind("relabel", "updated", first=500)
SMALL = (PUT, OVERWRITE, DELETE, RELABEL)


PLACES: tuple[When, When] = ("before_upstream", "after_upstream")


@dataclass(frozen=True)
class Point:
    """The `nth` request of the object to a store (0: the source, 1: the destination), on its way there or back."""

    store: int
    nth: int
    when: When

    def __str__(self) -> str:
        return f"{'there' if self.store else 'here'}-{self.nth}-{self.when.partition('_')[0]}"


@dataclass
class Subject:
    """One object and its route. `name` is a prefix of its own at both stores."""

    rig: Rig
    kind: Kind
    name: str
    destination: Side
    point: Point | None = None
    leaf: str = "k"
    data: bytes | None = None
    """What the source holds."""
    handle: Handle | None = field(default=None, repr=False)
    rule: Rule | None = field(default=None, repr=False)
    held: Seen | None = field(default=None, repr=False)
    """The replica at the moment of the crash."""
    was_done: bool = False
    """Whether it was by then what the source asks for."""
    begun: list[int] = field(default_factory=lambda: [0, 0])
    """How many requests it had at each store before the change."""

    @property
    def route(self) -> str:
        return f"{self.rig.document['routes'][0]['name']}-{self.name}"

    @property
    def key(self) -> str:
        return f"{self.rig.before}{self.name}/{self.leaf}"

    @property
    def replica_key(self) -> str:
        return f"{self.rig.after}{self.name}/{self.leaf}"

    def settings(self) -> dict[str, Any]:
        first = self.rig.document["routes"][0]
        source = {**first["source"], "prefix": f"{self.rig.before}{self.name}/"}
        destination = {**first["destination"], "bucket": self.destination.bucket, "prefix": f"{self.rig.after}{self.name}/"}
        return {**first, "name": self.route, "source": source, "destination": destination}

    # --- its requests ------------------------------------------------------------------------------------------------

    def channels(self) -> list[tuple[FaultProxy | None, str]]:
        """For each store the proxy and what its requests have in common. Temporary objects of GCS do not tell whose they are:
        there, every object has a bucket of its own."""
        there = f"/{self.destination.bucket}/{self.rig.after}{self.name}/"
        if isinstance(self.destination, GcsSide):
            there = f"/b/{self.destination.bucket}/{NO_PROOF}"
        return [(self.rig.reading, f"/{self.rig.source.bucket}/{self.rig.before}{self.name}/"), (self.rig.writing, there)]

    def requests(self, store: int) -> list[Exchange]:
        """Since the change."""
        proxy, path = self.channels()[store]
        return proxy.requests(path=path)[self.begun[store] :] if proxy else []

    def shapes(self, store: int) -> list[str]:
        """Its requests without what is of this object alone."""
        token = self.rig.after.partition("-")[2].strip("/")
        found = (f"{seen.method} {IDS.sub('', seen.target)}" for seen in self.requests(store))
        return [
            shape.replace(self.destination.bucket, "B").replace(token, "T").replace(f"T/{self.name}", "N").replace(f"T%2F{self.name}", "N")
            for shape in found
        ]

    def points(self) -> list[Point]:
        """Of this run, which nothing has disturbed."""
        return [Point(store, nth, when) for store in (0, 1) for nth in range(1, len(self.requests(store)) + 1) for when in PLACES]

    def watch(self) -> None:
        """Begins to note its steps, where that is not done anyway."""

    def hold(self) -> None:
        """Stops it at its point, for good."""
        assert self.point is not None
        proxy, path = self.channels()[self.point.store]
        assert proxy is not None
        self.rule = proxy.add(Rule(Stall(), when=self.point.when, path=path, nth=self.point.nth))

    def is_held(self) -> bool:
        assert self.rule is not None
        return self.rule.fired == 1

    # --- its life ----------------------------------------------------------------------------------------------------

    async def warm(self) -> None:
        """Has what is done once for each bucket done."""
        first = Subject(self.rig, PUT, self.name, self.destination, leaf="warm")
        await asyncio.to_thread(self.rig.source.put, first.key, b"warm")
        await (await first.start()).result()

    async def prepare(self) -> None:
        if self.kind.first is not None:
            self.data = noise(self.kind.first)
            await asyncio.to_thread(self.rig.source.put, self.key, self.data)
            assert (await (await self.start()).result()).outcome == "copied"
        self.begun = [len(proxy.requests(path=path)) if proxy else 0 for proxy, path in self.channels()]

    async def change(self) -> None:
        await asyncio.to_thread(self._change, self.rig.source)

    def _change(self, source: Side) -> None:
        if self.kind is DELETE:
            self.data = None
            source.delete(self.key)
        elif self.kind is RELABEL:
            assert isinstance(source, S3Side)
            here = {"Bucket": source.bucket, "Key": self.key}
            source.client.copy_object(**here, CopySource=here, MetadataDirective="REPLACE", Metadata=LABEL, ChecksumAlgorithm="CRC32C")
        else:
            self.data = noise(self.kind.then)
            source.put(self.key, self.data)

    async def start(self) -> Handle:
        self.handle = await self.rig.client.start_workflow(
            ReplicateObject.run,
            ReplicateObjectInput(route=self.route, key=self.key),
            id=object_workflow_id(self.route, self.key),
            task_queue=self.rig.document["temporal"]["task_queue"],
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        return self.handle

    async def see(self) -> Seen | None:
        return await asyncio.to_thread(self.destination.see, self.replica_key)

    async def note_crash(self) -> None:
        self.held = await self.see()
        self.was_done = self.is_right(self.held)

    def is_right(self, seen: Seen | None) -> bool:
        """Whether the replica is what the source asks for."""
        if seen is None or self.data is None:
            return seen is None and self.data is None
        return seen.sha256 == sha256(self.data) and (self.kind is not RELABEL or LABEL.items() <= seen.properties.metadata.items())

    async def problem(self, ledger: Ledger, result: ReplicateObjectResult) -> str:
        """What is wrong after all has settled, or ""."""
        seen, entries = await self.see(), await ledger.history(self.route, self.key)
        receipt = await ledger.find(self.route, self.key)
        added = [entry.action for entry in entries][self.kind.first is not None :]
        # Of what one step does and was killed before it was on record there is a receipt but no entry (docs/OPERATIONS.md); what was
        # killed in the look at the source that comes last is on record already.
        unrecorded = self.was_done and not self.kind.planned and result.outcome == "in_sync"
        problems = {
            "the replica is not the source": not self.is_right(seen),
            "it was written again": self.was_done and seen != self.held,
            f"it ended as {result.outcome}": result.outcome != self.kind.outcome and not unrecorded,
            f"on record is {added}": added != [self.kind.outcome] and not (unrecorded and not added),
            f"the receipt is {receipt}": ((receipt and receipt.source_version) or "") != result.source_version,
        }
        return ", ".join(what for what, wrong in problems.items() if wrong)


# --- one crash for all points -----------------------------------------------------------------------------------------

WORKER = {"control_slots": 200, "transfer_slots": 100, "streams": 1, "memory": "2GiB"}
LIMITS = {"bandwidth": "100GiB"}
"""Parts that have a limit of their own do not wait for each other (`activities/objects.py`): any number can be held."""
MIRROR = {"mode": "mirror", "max_percent": 100}
HELD_S = 7.0
"""A store may be silent for 25 s; whoever is held first must not give up before the last one is."""
SETTLED_S = 150.0


MakeSubject = Callable[[Kind, str, Point | None], Subject]


async def make_stage(make_rig: MakeRig, source: Side, destination: Side, **route: Any) -> Rig:
    """A rig that takes routes beside its first, which has nothing to do."""
    rig = await make_rig(source, destination, worker=WORKER, deletes=MIRROR, **route)
    rig.document["routes"][0]["destination"]["prefix"] = rig.after + "unused/"
    for store in rig.document["stores"].values():
        store["limits"] = LIMITS
    return rig


async def crash_everywhere(rig: Rig, kinds: Sequence[Kind], make: MakeSubject, *, held_s: float = HELD_S) -> dict[str, str]:
    """Finds the points of each kind, and has one worker die at all of them, which are reached within `held_s`. Tells what is wrong
    once all has settled, by the point."""
    undisturbed = [make(kind, kind.name, None) for kind in kinds]
    add_routes(rig, undisturbed)
    first = await rig.process()
    await run_undisturbed(undisturbed)
    assert await first.terminate(30.0) == 0
    subjects = [make(whole.kind, f"{whole.kind.name}-{point}", point) for whole in undisturbed for point in whole.points()]
    add_routes(rig, subjects)
    second = await rig.process()
    await asyncio.gather(*(make_ready(subject) for subject in subjects))
    for subject in subjects:
        subject.hold()
    await asyncio.gather(*(subject.start() for subject in subjects))
    await eventually(lambda: all(subject.is_held() for subject in subjects), held_s)
    second.kill()
    await asyncio.gather(*(subject.note_crash() for subject in subjects))
    for whole in undisturbed:
        assert_held_in_order(whole, [subject for subject in subjects if subject.kind is whole.kind])
    await rig.process()
    problems = await problems_of(rig, subjects, await results_of(subjects))
    assert {subject.kind for subject in subjects if subject.was_done} == set(kinds), "a crash behind each kind of commit"
    return problems


async def run_undisturbed(subjects: list[Subject]) -> None:
    for subject in subjects:
        await make_ready(subject)
        subject.watch()
        result = await (await subject.start()).result()
        assert result.outcome == subject.kind.outcome


def add_routes(rig: Rig, subjects: list[Subject]) -> None:
    rig.document["routes"] += [subject.settings() for subject in subjects]


async def make_ready(subject: Subject) -> None:
    if isinstance(subject.destination, GcsSide):
        await subject.warm()
    await subject.prepare()
    await subject.change()


def assert_held_in_order(whole: Subject, subjects: list[Subject]) -> None:
    """Each was held at the step that it is named after."""
    for store in (0, 1):
        held = [(subject, subject.point) for subject in subjects if subject.point and subject.point.store == store]
        steps = whole.shapes(store)
        assert sorted(subject.shapes(store)[point.nth - 1] for subject, point in held) == sorted(steps[point.nth - 1] for _, point in held)


async def results_of(subjects: list[Subject]) -> list[ReplicateObjectResult]:
    handles = [subject.handle for subject in subjects if subject.handle is not None]
    return await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), SETTLED_S)


async def problems_of(rig: Rig, subjects: list[Subject], results: list[ReplicateObjectResult]) -> dict[str, str]:
    """What is wrong after all has settled, by the point; what was left behind is swept."""
    ledger, lab = Ledger(rig.settings.ledger), rig.lab
    problems = {s.name: await s.problem(ledger, result) for s, result in zip(subjects, results, strict=True)}
    await ledger.close()
    await eventually(lambda: is_swept(rig, subjects, lambda: sweep(lab)), 20.0)
    return {name: problem for name, problem in problems.items() if problem}


async def is_swept(rig: Rig, subjects: list[Subject], sweep_once: Callable[[], Any]) -> bool:
    """A workflow shows up in the visibility store a moment after it closed."""
    await sweep_once()
    names = {name for subject in subjects for name in await asyncio.to_thread(subject.destination.keys) if ".drayage" in name}
    return not names - {LOCK} and not await rig.leftovers()
