"""What a scan says that it did: nothing behind its cursor is undone, nothing is left out, and its result stays small."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from activities._progress import Pulse
from activities.scan import MAX_LARGE
from activities.splitting import Splitter
from ledger.rows import Quarantined
from replication.errors import Throttled
from replication.limits import MIB
from replication.models import ABSENT, Attributes, ListedObject, ObjectInfo
from replication.passes import Filters, KeyRange
from stores.body import Body
from stores.memory import MemoryStore
from stores.memory_buckets import Stored
from tests.passes.in_memory import Throttling, bench


async def test_an_object_at_which_an_attempt_failed_is_done_by_the_next() -> None:
    """The keys before it needed nothing: the cursor stands behind those, and not behind the object under way."""
    async with bench() as made:
        for number in range(5):
            await made.put(f"k{number}")
        await made.scan()
        await made.put("k3a")
        made.source.busy = "k3a"
        pulse = Pulse()
        with pytest.raises(Throttled):
            await made.scan(pulse)
        assert pulse.details.scan is not None
        assert pulse.details.scan["cursor"] == "k3"
        made.source.busy = ""
        result = await made.scan(Pulse(pulse.details))
        assert (result.counters.listed, result.counters.copied, result.counters.skipped) == (6, 1, 5)
        assert "k3a" in await made.replicas()


@pytest.mark.parametrize(
    ("route", "filters", "listed"), [({}, {"exclude": ["**"]}, 0), ({"exclude": ["**"]}, {}, 0), ({}, {"min_size": 9}, 0), ({}, {}, 7)]
)
async def test_a_stretch_of_keys_that_are_nobodys_business_moves_the_cursor_as_well(
    route: dict[str, Any], filters: dict[str, Any], listed: int
) -> None:
    async with bench(**route) as made:
        for number in range(7):
            await made.put(f"k{number}")
        cursors = [""]
        for _ in range(3):
            result = await made.scan(keys=KeyRange(after=cursors[-1]), max_keys=3, filters=Filters(**filters))
            cursors.append(result.cursor)
        assert (cursors, result.ended) == (["", "k2", "k5", "k6"], True)
        assert len(await made.replicas()) == listed


async def test_what_is_gone_from_both_sides_is_forgotten_though_an_object_behind_it_needs_work() -> None:
    async with bench() as made:
        await made.put("a")
        await made.scan()
        await made.source.delete("one", "a", (await made.source.head("one", "a")).version)
        await made.destination.delete("two", "a", (await made.destination.head("two", "a")).version)
        await made.ledger.record(quarantined=[Quarantined("r", "a", "server-fault", "503")])
        await made.put("b")
        result = await made.scan()
        assert (result.counters.listed, result.counters.copied) == (1, 1)
        assert await made.ledger.find("r", "a") is None
        assert await made.ledger.quarantine("r") == []


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_rests_leaves_the_quarantine_where_its_source_is_gone_and_its_replica_is_to_stay(is_known: bool) -> None:
    async with bench() as made:
        await made.put("a")
        await made.scan()
        await made.source.delete("one", "a", (await made.source.head("one", "a")).version)
        await made.ledger.record(forgotten=[] if is_known else [("r", "a")], quarantined=[Quarantined("r", "a", "server-fault", "503")])
        assert (await made.scan(mode="plan")).counters.extra == 1
        assert len(await made.ledger.quarantine("r")) == 1
        assert (await made.scan()).counters.extra == 1
        assert await made.ledger.quarantine("r") == []


async def test_a_replica_whose_deletion_failed_stays_in_quarantine_until_it_is_made() -> None:
    async with bench(deletes="mirror") as made:
        await made.put("a")
        await made.scan()
        await made.source.delete("one", "a", (await made.source.head("one", "a")).version)
        await made.ledger.record(quarantined=[Quarantined("r", "a", "permission-refused", "403")])
        assert (await made.scan()).counters.extra == 1
        assert len(await made.ledger.quarantine("r")) == 1


async def test_what_rests_is_looked_at_again_though_its_receipt_holds() -> None:
    """A look that failed rests like any other, and a listing may not show what it was about."""
    async with bench() as made:
        for key in "ab":
            await made.put(key)
        await made.scan()
        await made.ledger.record(quarantined=[Quarantined("r", "a", "server-fault", "503")])
        counters = (await made.scan()).counters
        assert (counters.listed, counters.skipped) == (2, 2)
        assert await made.ledger.quarantine("r") == []


async def test_replicas_without_a_source_are_counted_and_not_noted_where_deletions_are_ignored() -> None:
    async with bench() as made:
        for key in "abc":
            await made.put(key)
        await made.scan()
        await made.source.delete("one", "b", (await made.source.head("one", "b")).version)
        counters = (await made.scan()).counters
        assert (counters.listed, counters.replicas, counters.extra, counters.skipped) == (2, 3, 1, 2)
        assert await made.ledger.pending_count("r") == 0


async def test_each_line_of_a_plan_has_a_number_of_its_own() -> None:
    """Over the stretches of a partition, and over partitions."""
    async with bench() as made:
        for number in range(7):
            await made.put(f"k{number}")
        first = await made.scan(mode="plan", max_keys=3)
        second = await made.scan(mode="plan", found=first.found, keys=KeyRange(after=first.cursor, up_to="k4"))
        await made.scan(mode="plan", number=1, keys=KeyRange(after="k4"))
        assert (first.found, second.found) == (3, 5)
        assert [finding.document["key"] for finding in await made.ledger.findings("p")] == [f"k{number}" for number in range(7)]


async def test_a_key_of_which_the_rules_make_nothing_is_refused_and_not_copied() -> None:
    async with bench(dependencies="dss") as made:
        await made.put("odd")
        assert (await made.scan()).counters.blocked == 1
        assert [one.reason for one in await made.ledger.quarantine("r")] == ["unknown-kind"]
        assert await made.replicas() == []


async def test_the_object_that_is_the_prefix_itself_is_accounted_for() -> None:
    sides = {"source": {"store": "a", "bucket": "one", "prefix": "in/"}, "destination": {"store": "b", "bucket": "two", "prefix": "out/"}}
    async with bench(**sides) as made:
        await made.put("in/", b"")
        result = await made.scan()
        assert (result.counters.listed, result.counters.copied) == (1, 1)
        assert await made.ledger.find("r", "in/") is not None
        assert (await made.scan()).counters.skipped == 1


async def test_a_result_names_few_large_objects_however_many_a_page_holds() -> None:
    async with bench() as made:
        large = made.source.put_synthetic("one", "k", 9 * MIB)
        content = made.source._buckets["one"].objects["k"].content
        for number in range(3000):
            made.source._buckets["one"].set(Stored(replace(large, key=f"{number:04d}{'k' * 900}"), content))
        named, cursor = 0, ""
        while True:
            result = await made.scan(keys=KeyRange(after=cursor))
            assert len(result.large) <= MAX_LARGE
            assert len(result.model_dump_json()) < 256 << 10
            named, cursor = named + len(result.large), result.cursor
            if result.ended:
                break
        assert named == 3001


class Archive(Throttling):
    """All its objects are of an archive, as the listing tells, and those that `archived` says cannot be read before they are restored."""

    archived = True

    async def list_objects(self, *what: Any, **how: Any) -> AsyncIterator[Sequence[ListedObject]]:
        async for page in super().list_objects(*what, **how):
            yield [entry._replace(storage_class="GLACIER") for entry in page]

    async def head(self, *what: Any, **how: Any) -> ObjectInfo:
        return replace(await super().head(*what, **how), archived=self.archived)

    async def request_restore(self, *what: Any, **how: Any) -> None:
        pass


@pytest.mark.parametrize(("archived", "restore"), [(True, True), (False, False)], ids=["parked", "large"])
@pytest.mark.parametrize("letter", ["k", "\x01"])
async def test_a_result_names_few_archived_objects_however_many_are_under_way(archived: bool, restore: bool, letter: str) -> None:
    async with bench(restore=restore, parts={"one_shot_max": "8MiB", "part_size": "8MiB"}) as made:
        one = made.source.put_synthetic("one", "k", 9 * MIB)
        content = made.source._buckets["one"].objects["k"].content
        for number in range(700):
            made.source._buckets["one"].set(Stored(replace(one, key=f"{number:04d}{letter * 900}"), content))
        made.source.__class__ = Archive
        made.source.archived = archived  # type: ignore[attr-defined]
        named, cursor = 0, ""
        while True:
            result = await made.scan(keys=KeyRange(after=cursor))
            assert len(result.large) + len(result.parked) <= MAX_LARGE
            assert len(result.model_dump_json()) < 256 << 10
            named, cursor = named + len(result.parked if archived else result.large), result.cursor
            if result.ended:
                break
        assert named == 701
        assert [one async for one in made.destination.list_uploads("two")] == []


async def test_a_plan_looks_at_a_large_object_that_has_a_replica() -> None:
    async with bench(parts={"one_shot_max": "64MiB"}) as made:
        info = made.source.put_synthetic("one", "large", 9 * MIB)
        plan = (await made.settler.settle(made.settings.route("r"), _asked("large"), lambda size: None)).plan
        assert plan is not None
        await made.settler.copy_whole(made.settings.route("r"), "large", plan, lambda size: None)
        await made.scan()
        await made.source.update_attributes("one", "large", info.version, Attributes(metadata={"a": "1"}))
        counters = (await made.scan(mode="plan")).counters
        assert (counters.updated, counters.copied, counters.bytes_copied) == (1, 0, 0)


@pytest.mark.parametrize("destination", ["", "é" * 2])
async def test_a_plan_counts_what_the_destination_cannot_hold(destination: str) -> None:
    sides = {"source": {"store": "a", "bucket": "one"}, "destination": {"store": "b", "bucket": "two", "prefix": destination}}
    async with bench(**sides) as made:
        await made.put("k" * 1022)
        await made.put("small")
        made.destination.limits = replace(made.destination.limits, max_object_size=9 * MIB)
        made.source.put_synthetic("one", "vast", 9 * MIB + 1)
        planned = (await made.scan(mode="plan")).counters
        found = [finding.document for finding in await made.ledger.findings("p")]
        assert (planned.listed, planned.copied, planned.blocked) == ((3, 1, 2) if destination else (3, 2, 1))
        refused = [told["reason"] for told in found if told["action"] == "blocked"]
        assert refused == (["key-invalid"] if destination else []) + ["object-too-large"]
        assert (await made.scan()).counters.blocked == len(refused) - 1


def _asked(key: str) -> Any:
    from replication.models import SettleInput

    return SettleInput(route="r", key=key)


@pytest.mark.parametrize("prefix", ["", "data/"])
async def test_a_folders_own_object_does_not_keep_its_keys_together(prefix: str) -> None:
    store = MemoryStore("a")
    store.create_bucket("one")
    for key in ["data/", *(f"data/{number:02d}" for number in range(100))]:
        await store.put("one", key, Body.of(b""), Attributes(), ABSENT)
    assert len(await Splitter(store, "one", prefix).cuts("", KeyRange(), 8)) >= 4


async def test_a_key_at_the_end_of_a_range_leads_no_cut_beyond_it() -> None:
    store = MemoryStore("a")
    store.create_bucket("one")
    for key in ["ba", "bb", "bd", "bda", "ca", "cab", "cb", "cc", "cd"]:
        await store.put("one", key, Body.of(b""), Attributes(), ABSENT)
    cuts = await Splitter(store, "one", "").cuts("", KeyRange(after="ba", up_to="ca"), 8)
    assert all("ba" < cut < "ca" for cut in cuts)
