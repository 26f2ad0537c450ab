"""R20: workers are killed at every step of every kind of change, at both stores, on the way there and on the way back.

The steps are the requests of an undisturbed run. Then there is one object for each of them: all are held in the hands of one
worker, each at its point, and die with it. What was held goes nowhere any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from embedded.fake_gcs import FakeGcs
from ledger.ledger import Ledger
from tests.dss import Dss
from tests.e2e.sides import FileSide, GcsSide, S3Side, Seen, Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, ROOT, Rig, noise, sha256
from tests.faults.steps import HELD_S, PLACES, SETTLED_S, SMALL, Kind, Point, Subject, crash_everywhere, make_stage
from tests.faults.test_pass_faults import start
from tests.passes.test_pairs import put_all
from tests.poll import eventually
from tests.proxy import Rule, Stall

SMALL_PARTS = {"part_size": MIB, "one_shot_max": MIB, "concurrency": 1}

MakeSide = Callable[[], Side]


@pytest.fixture
def gcs_sides(fake_gcs: FakeGcs) -> Iterator[MakeSide]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(GcsSide("gcs", fake_gcs)))


@pytest.mark.parametrize("kinds", [SMALL, (Kind("parts", "copied", then=PART + 9, planned=True),)], ids=["small", "multipart"])
async def test_crashes_at_every_step_on_s3(make_rig: MakeRig, s3: S3Side, s3b: S3Side, kinds: Sequence[Kind]) -> None:
    rig = await make_stage(make_rig, s3, s3b)
    assert await crash_everywhere(rig, kinds, lambda kind, name, point: Subject(rig, kind, name, s3b, point)) == {}


@pytest.mark.soak
@pytest.mark.parametrize("kinds", [SMALL, (Kind("parts", "copied", then=MIB + 9, planned=True),)], ids=["small", "composed"])
async def test_crashes_at_every_step_on_gcs(make_rig: MakeRig, s3: S3Side, gcs_sides: MakeSide, kinds: Sequence[Kind]) -> None:
    rig = await make_stage(make_rig, s3, gcs_sides(), parts=SMALL_PARTS)
    assert await crash_everywhere(rig, kinds, lambda kind, name, point: Subject(rig, kind, name, gcs_sides(), point)) == {}


class OnFiles(Subject):
    """Held at a change in the directory of the object, by the hooks of `hooks/sitecustomize.py`."""

    @property
    def folder(self) -> Path:
        return self.rig.folder / "steps"

    def watch(self) -> None:
        self._ask(0, "")

    def hold(self) -> None:
        assert self.point is not None
        self._ask(self.point.nth, self.point.when.partition("_")[0])

    def is_held(self) -> bool:
        return (self.folder / "held" / self.name).exists()

    async def note_crash(self) -> None:
        await super().note_crash()
        (self.folder / "hold" / self.name).unlink()

    def points(self) -> list[Point]:
        """What follows a change is the same as what comes before the next one: nothing else of it outlives the process."""
        last = len(self.shapes(1))
        return [*(Point(1, nth, "before_upstream") for nth in range(1, last + 1)), Point(1, last, "after_upstream")]

    def shapes(self, store: int) -> list[str]:
        calls = self.folder / "calls" / self.name
        return calls.read_text().splitlines() if store else []

    def _ask(self, nth: int, when: str) -> None:
        (self.folder / "hold" / self.name).write_text(json.dumps([nth, when]))


async def test_crashes_at_every_step_on_a_file_system(make_rig: MakeRig, s3: S3Side, files: FileSide) -> None:
    rig = await make_stage(make_rig, s3, files, parts=SMALL_PARTS)
    for kind in ("hold", "held", "calls"):
        (rig.folder / "steps" / kind).mkdir(parents=True)
    hooks = Path(__file__).with_name("hooks")
    rig.secrets = {"PYTHONPATH": f"{hooks}{os.pathsep}{ROOT}", "DRAYAGE_TEST_STEPS": str(rig.folder / "steps")}
    kinds = (*SMALL, Kind("parts", "copied", then=MIB + 9, planned=True))
    assert await crash_everywhere(rig, kinds, lambda kind, name, point: OnFiles(rig, kind, name, files, point), held_s=30.0) == {}


@dataclass
class Manifest(Subject):
    """A manifest that waits for its blob: only its own workflow is started, and both are copied in their order."""

    def __post_init__(self) -> None:
        self.group = Dss(random.randrange(1 << 62))
        self.leaf = self.group.file

    def shapes(self, store: int) -> list[str]:
        return [re.sub(r"(blobs|files)/[^?]*", r"\1", shape) for shape in super().shapes(store)]

    def _change(self, source: Side) -> None:
        self.data = self.group.content(self.group.file)
        for name in (self.group.blob, self.group.file):
            source.put(f"{self.rig.before}{self.name}/{name}", self.group.content(name))

    async def see(self) -> Seen | None:
        """A reader who finds the manifest finds what it names."""
        seen = await super().see()
        if seen is not None:
            blob = await asyncio.to_thread(self.destination.see, f"{self.rig.after}{self.name}/{self.group.blob}")
            assert blob is not None
            assert blob.sha256 == sha256(self.group.data)
        return seen


async def test_crashes_at_every_step_of_a_manifest_and_its_blob(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    wait = {"poll": "10s", "poll_max": "10s", "deadline": "1h"}
    rig = await make_stage(make_rig, s3, s3b, dependencies="dss", dependency_wait=wait)
    kind = Kind("manifest", "copied")
    assert await crash_everywhere(rig, [kind], lambda kind, name, point: Manifest(rig, kind, name, s3b, point)) == {}


async def test_crashes_at_every_step_of_small_objects_of_a_pass(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    """A scan reads and writes them by itself. What it wrote and could not record is found right by the next attempt."""
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    assert rig.writing is not None
    steps = {"GET": (rig.reading, rig.of), "PUT": (rig.writing, rig.on)}
    held: dict[str, Rule] = {}
    for (method, (proxy, address)), when, number in product(steps.items(), PLACES, range(4)):
        name = f"{method}-{when}-{number}"
        held[name] = proxy.add(Rule(Stall(), when=when, path=address(name)))
    free = [f"0-free-{number}" for number in range(20)]  # the first of all is read once more, when the pass begins
    truth = {name: noise(700) for name in [*held, *free]}
    await put_all(s3, {rig.before + name: data for name, data in truth.items()})
    first = await rig.process()
    handle = await start(rig)
    await eventually(lambda: all(rule.fired for rule in held.values()), HELD_S)
    await eventually(lambda: replicated(rig, free, truth), HELD_S)
    first.kill()
    done = {name: await rig.version(name) for name in truth}
    await rig.process()
    result = await asyncio.wait_for(handle.result(), SETTLED_S)

    requests = [*rig.reading.requests(path=rig.of("0-free-")), *rig.writing.requests(path=rig.on("0-free-"))]
    assert {seen.method for seen in requests} == set(steps), "these are all the steps that there are"
    assert {name.rpartition("-")[0] for name, version in done.items() if version} == {"0-free", "PUT-after_upstream"}
    assert (result.state, result.counters.failed, result.counters.blocked) == ("done", 0, 0)
    ledger = Ledger(rig.settings.ledger)
    route = rig.settings.routes[0].name
    for name, data in truth.items():
        await rig.assert_settled(name, data)
        assert done[name] in (None, await rig.version(name)), f"{name} was written twice"
        assert await ledger.find(route, rig.before + name) is not None
        entries = [entry.action for entry in await ledger.history(route, rig.before + name)]
        assert entries == ["copied"] or (done[name] and entries == []), name
    await ledger.close()


async def replicated(rig: Rig, names: list[str], truth: dict[str, bytes]) -> bool:
    return all([await rig.holds(name, truth[name]) for name in names])
