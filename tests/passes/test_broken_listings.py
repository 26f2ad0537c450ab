"""A thousand scans with listings that lie: no object that exists at its source ever loses its replica (R52, E7)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from activities.gate import Gate
from activities.outcomes import Repair
from activities.passes import nothing_recorded
from activities.scan import Scan
from activities.settle import Settler
from activities.turns import Turns
from ledger.ledger import Ledger
from replication.errors import ObjectError, ServerFault
from replication.models import ABSENT, Attributes, ListedObject, SettleInput
from replication.passes import Counters, ScanInput, held_reason
from replication.route_settings import DeletesSettings
from replication.settings import Settings
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.passes.in_memory import settings_of

OBJECTS = 24
PAGE = 5
FAULTS = ["missing page", "missing keys", "cut short", "error", "twice", "backwards", "empty", "first page again", "none"]


class Lying(MemoryStore):
    """A store whose listings have a fault of the kind that `fault` names; everything else of it is true."""

    fault = "none"
    random = random.Random(52)

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        pages = [page async for page in super().list_objects(bucket, prefix, start_after=start_after, page_size=PAGE)]
        for page in self._faulty(pages):
            yield page
        if self.fault == "error":
            raise ServerFault("the listing broke off")

    def _faulty(self, pages: list[Sequence[ListedObject]]) -> list[Sequence[ListedObject]]:
        at = self.random.randrange(max(1, len(pages)))
        match self.fault:
            case "missing page":
                return pages[:at] + pages[at + 1 :]
            case "missing keys":
                return [kept for page in pages if (kept := [entry for entry in page if self.random.random() < 0.5])]
            case "cut short" | "error":
                return pages[:at]
            case "twice":
                return pages[: at + 1] + pages[at:]
            case "backwards":
                return [list(reversed(page)) for page in pages]
            case "empty":
                return []
            case "first page again":
                return pages + pages[:1]
            case _:
                return pages


@pytest.mark.parametrize("scans", [200, pytest.param(1000, marks=pytest.mark.soak)])
async def test_no_defective_scan_deletes_the_replica_of_an_object_that_exists(scans: int) -> None:
    settings = settings_of(deletes="mirror")
    source, destination = Lying("a"), Lying("b")
    source.create_bucket("one")
    destination.create_bucket("two")
    stores, ledger = Stores(settings, {}), Ledger(settings.ledger)
    stores.add(source)
    stores.add(destination)
    for number in range(OBJECTS):
        await source.put("one", f"k{number:02d}", Body.of(b"x" * (number + 1)), Attributes(), ABSENT)
    assert await passed(settings, stores, ledger, 0) == ("copied", OBJECTS)

    ends = Counter[str]()
    for scan in range(1, scans + 1):
        source.fault, destination.fault = random.Random(scan).choice(FAULTS), random.Random(f"destination {scan}").choice(FAULTS)
        end, deleted = await passed(settings, stores, ledger, scan)
        ends[end] += 1
        assert deleted == 0, (scan, source.fault, destination.fault)
        assert sum([len(page) async for page in MemoryStore.list_objects(destination, "two")]) == OBJECTS
    await ledger.close()
    assert ends["aborted"] > scans / 10, "listings that break off or go back were noticed"
    assert ends["looked at again"] > scans / 10, "replicas that seemed to have no source were looked at again"
    assert ends["held"] > scans / 20, "a source that suddenly lists nothing is held"


async def passed(settings: Settings, stores: Stores, ledger: Ledger, number: int) -> tuple[str, int]:
    """What a whole pass would do, step by step as its workflow takes them: how it ended, and how many it copied or deleted."""
    route, asked = settings.route("r"), ScanInput(route="r", pass_id=f"p{number}")
    settler = Settler(settings, stores, ledger, None, record=nothing_recorded, collects=True)
    outcomes = Repair(asked, route, stores, settler, paired=False, workflow="")
    try:
        result = await Scan(asked, route, stores, ledger, outcomes, Gate(0, Turns())).run()
    except ObjectError:
        return "aborted", 0
    if not number:
        return "copied", result.counters.copied
    pending = await ledger.pending_deletions("r", pass_id=asked.pass_id)
    if held_reason(len(pending), result.counters, DeletesSettings(max_percent=100)):
        return "held", 0
    return "looked at again" if pending else "nothing to delete", await deleted_of(settings, stores, ledger, [one.key for one in pending])


async def deleted_of(settings: Settings, stores: Stores, ledger: Ledger, keys: list[str]) -> int:
    settler, route = Settler(settings, stores, ledger, None, record=nothing_recorded), settings.route("r")
    results = [await settler.settle(route, SettleInput(route="r", key=key), lambda size: None) for key in keys]
    return sum(one.result is not None and one.result.outcome == "deleted" for one in results)


def test_the_counters_of_a_pass_add_up() -> None:
    assert Counters(listed=1, copied=2).plus(Counters(listed=3)) == Counters(listed=4, copied=2)
