"""What passes keep."""

from __future__ import annotations

from typing import Any

from ledger.ledger import Ledger
from ledger.rows import Finding, PassRecord, PendingDeletion, Quarantined, Receipt, VerifiedLeaf


async def test_a_pass_is_kept_from_its_beginning_to_its_end(ledger: Ledger, clock: Any) -> None:
    await ledger.begin_pass(PassRecord("p1", "r", "repair", "running", workflow="w"))
    assert await ledger.find_pass("p1") == PassRecord("p1", "r", "repair", "running", started_at=12.5, workflow="w")
    clock.now = 20.0
    for _ in range(2):
        await ledger.end_pass("p1", state="incomplete", reason="3 blocked", counters={"listed": 2**40})
        clock.now = 30.0
    ended = PassRecord("p1", "r", "repair", "incomplete", "3 blocked", 12.5, 20.0, {"listed": 2**40}, "w")
    assert await ledger.find_pass("p1") == ended
    assert await ledger.find_pass("p2") is None


async def test_a_pass_that_begins_again_keeps_its_time_and_one_that_ended_its_end(ledger: Ledger, clock: Any) -> None:
    await ledger.begin_pass(PassRecord("p", "r", "plan", "running"))
    clock.now = 20.0
    await ledger.begin_pass(PassRecord("p", "r", "plan", "paused"))
    assert await ledger.find_pass("p") == PassRecord("p", "r", "plan", "paused", started_at=12.5)
    await ledger.end_pass("p", state="done", counters={})
    await ledger.begin_pass(PassRecord("p", "r", "plan", "running"))
    assert await ledger.find_pass("p") == PassRecord("p", "r", "plan", "done", started_at=12.5, ended_at=20.0)


async def test_the_end_of_an_unknown_pass_is_harmless(ledger: Ledger) -> None:
    await ledger.end_pass("never", state="done", counters={})
    assert await ledger.find_pass("never") is None


async def test_passes_are_listed_newest_first(ledger: Ledger) -> None:
    for number in (2, 1, 3):
        await ledger.begin_pass(PassRecord(f"p{number}", "r", "plan", "skipped", "busy", float(number), float(number)))
    await ledger.begin_pass(PassRecord("other", "q", "plan", "running"))
    assert [record.pass_id for record in await ledger.passes("r")] == ["p3", "p2", "p1"]
    assert [record.pass_id for record in await ledger.passes("r", limit=1)] == ["p3"]


async def test_a_deletion_that_is_held_again_keeps_its_first_sight(ledger: Ledger, clock: Any) -> None:
    await ledger.hold_deletions([PendingDeletion("r", "k", "p1", "v1"), PendingDeletion("r", "k", "p1", "v2")])
    clock.now = 20.0
    await ledger.hold_deletions([PendingDeletion("r", "k", "p2", "v3"), PendingDeletion("r", "B", "p2")])
    await ledger.hold_deletions([])
    held = [PendingDeletion("r", "B", "p2", "", 20.0), PendingDeletion("r", "k", "p2", "v3", 12.5)]
    assert await ledger.pending_deletions("r") == held
    assert await ledger.pending_deletions("r", since_before=20.0) == held[1:]
    assert await ledger.pending_deletions("r", after="B") == held[1:]
    assert await ledger.pending_deletions("r", limit=1) == held[:1]
    assert await ledger.pending_deletions("r", pass_id="p1") == []
    assert [await ledger.pending_count("r", pass_id=pass_id) for pass_id in (None, "p1", "p2")] == [2, 0, 2]


async def test_deletions_are_dropped_by_key_by_route_and_by_pass(ledger: Ledger) -> None:
    async def held(route: str = "r") -> list[str]:
        return [item.key for item in await ledger.pending_deletions(route)]

    await ledger.hold_deletions([PendingDeletion("r", key, "p1" if key < "c" else "p2") for key in "abcdef"])
    await ledger.hold_deletions([PendingDeletion("q", "a", "p1")])

    assert await ledger.drop_deletions("r", ["a", "a", "f", "unknown"]) == 2
    assert await ledger.drop_deletions("r", ["b", "c"], not_of_pass="p2") == 1
    assert await ledger.drop_deletions("r", []) == 0
    assert await held() == ["c", "d", "e"]
    await ledger.hold_deletions([PendingDeletion("r", "d", "p3")])
    assert await ledger.drop_deletions("r", not_of_pass="p3") == 2
    assert await held() == ["d"]
    assert await ledger.drop_deletions("r") == 1
    assert await held("q") == ["a"]


async def test_what_is_about_to_be_deleted_or_rests_after_a_failure_is_not_in_sync(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", key, "v", "d") for key in "abcde"] + [Receipt("q", key, "v", "d") for key in "ab"])
    await ledger.hold_deletions([PendingDeletion("r", key, "p1") for key in ("b", "c", "without-a-receipt")])
    await ledger.record(quarantined=[Quarantined("r", key, "server-fault", "") for key in ("c", "d", "without-a-receipt")])
    assert (await ledger.in_sync_count("r"), await ledger.in_sync_count("q")) == (2, 2)


async def test_findings_replace_each_other_by_number(ledger: Ledger) -> None:
    await ledger.add_findings("p", [(0, "a", {"n": 1}), (2, "\udc80", {"text": "\0\udc80é"}), (10, "c", {})])
    await ledger.add_findings("p", [(0, "b", {"n": [None, 2.5]})])
    await ledger.add_findings("other", [(0, "a", {})])
    found = [Finding("p", 0, "b", {"n": [None, 2.5]}), Finding("p", 2, "\udc80", {"text": "\0\udc80é"}), Finding("p", 10, "c", {})]
    assert await ledger.findings("p") == found
    assert await ledger.findings("p", after=0, limit=1) == found[1:2]


async def test_old_findings_are_dropped(ledger: Ledger, clock: Any) -> None:
    await ledger.add_findings("old", [(0, "a", {}), (1, "b", {})])
    clock.now = 20.0
    await ledger.add_findings("new", [(0, "a", {})])
    assert await ledger.drop_findings(older_than=20.0) == 2
    assert await ledger.findings("old") == []
    assert len(await ledger.findings("new")) == 1


async def test_a_pass_that_runs_or_ended_lately_keeps_its_findings_however_old(ledger: Ledger, clock: Any) -> None:
    """Of a mode of a route one runs at a time, so an older one without an end was killed."""
    passes = {
        "killed": ("r", "plan"),
        "ended": ("r", "verify"),
        "lately": ("r", "verify"),
        "plans": ("r", "plan"),
        "other": ("s", "plan"),
    }
    for pass_id, (route, mode) in passes.items():
        clock.now += 1
        await ledger.begin_pass(PassRecord(pass_id, route, mode, "running"))
        await ledger.add_findings(pass_id, [(0, "a", {})])
    for pass_id, clock.now in (("ended", 50.0), ("lately", 100.0)):
        await ledger.end_pass(pass_id, state="done", counters={})
    assert await ledger.drop_findings(older_than=100.0) == 2
    assert [pass_id for pass_id in passes if await ledger.findings(pass_id)] == ["lately", "plans", "other"]


async def test_leaves_come_back_in_the_order_of_their_bytes_and_replace_each_other(ledger: Ledger) -> None:
    await ledger.begin_pass(PassRecord("p", "r", "verify", "running"))
    await ledger.add_leaves("p", [VerifiedLeaf(key, 1, "etag:a") for key in ("é", "b", "\udc80", "a", "\U0010ffff")])
    await ledger.add_leaves("p", [VerifiedLeaf("b", 2**40, "crc32c:00000001", "end-to-end")])
    found = await ledger.leaves("p")
    assert [leaf.key for leaf in found] == ["a", "b", "é", "\udc80", "\U0010ffff"]
    assert found[1] == VerifiedLeaf("b", 2**40, "crc32c:00000001", "end-to-end")
    assert [leaf.key for leaf in await ledger.leaves("p", after="b", limit=2)] == ["é", "\udc80"]
    assert await ledger.leaves("other") == []


async def test_leaves_are_dropped_with_the_next_pass_of_their_route(ledger: Ledger) -> None:
    for pass_id, route in (("p1", "r"), ("p2", "r"), ("q", "s")):
        await ledger.begin_pass(PassRecord(pass_id, route, "verify", "running"))
        await ledger.add_leaves(pass_id, [VerifiedLeaf("a", 1, "etag:a"), VerifiedLeaf("b", 1, "etag:b")])
    assert await ledger.drop_leaves("r", not_of_pass="p2") == 2
    assert [len(await ledger.leaves(pass_id)) for pass_id in ("p1", "p2", "q")] == [0, 2, 2]
    assert await ledger.drop_leaves("r") == 2
    assert len(await ledger.leaves("q")) == 2


async def test_only_a_finished_verification_of_the_whole_route_counts_as_the_last(ledger: Ledger) -> None:
    passes = [
        ("whole", "verify", "done", "route"),
        ("anomalies", "verify", "incomplete", "route"),
        ("filtered", "verify", "done", ""),
        ("failed", "verify", "failed", "route"),
        ("repair", "repair", "done", "route"),
    ]
    assert await ledger.last_verified("r") is None
    for number, (pass_id, mode, state, scope) in enumerate(passes, 1):
        await ledger.begin_pass(PassRecord(pass_id, "r", mode, "running", started_at=float(number), scope=scope))
        await ledger.end_pass(pass_id, state=state, counters={})
    assert await ledger.last_verified("r") == 2.0
