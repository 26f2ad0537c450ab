"""Group commit: concurrent calls share transactions, and answer for their own data only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from ledger.batch import Batch
from ledger.group import GROUP_MAX, GroupCommit
from ledger.ledger import Ledger
from ledger.rows import AuditEntry, Receipt
from replication.errors import LedgerUnavailable


@pytest.fixture
def commits() -> Iterator[list[object]]:
    """One element for each transaction that was committed."""
    seen: list[object] = []
    listener = seen.append
    event.listen(Engine, "commit", listener)
    yield seen
    event.remove(Engine, "commit", listener)


async def test_many_calls_share_few_transactions(ledger: Ledger, commits: list[object]) -> None:
    await ledger.migrate()
    commits.clear()
    await asyncio.gather(
        *(ledger.record(receipts=[Receipt("r", f"k{n}", "v", "d")], audit=[AuditEntry("r", f"k{n}", "copied")]) for n in range(500))
    )
    assert 1 <= len(commits) <= 3
    assert await ledger.in_sync_count("r") == 500
    assert (await ledger.verify_chain("r")).entries == 500


async def test_a_call_that_the_database_refuses_fails_alone(ledger: Ledger) -> None:
    wrong: Any = None
    calls = [ledger.record(receipts=[Receipt("r", f"k{number}", wrong if number == 7 else "v", "d")]) for number in range(20)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [LedgerUnavailable if number == 7 else type(None) for number in range(20)]
    assert await ledger.in_sync_count("r") == 19


async def test_a_call_that_fails_leaves_nothing(ledger: Ledger) -> None:
    wrong: Any = None
    with pytest.raises(LedgerUnavailable):
        await ledger.record(receipts=[Receipt("r", "k", "v", "d")], audit=[AuditEntry("r", "k", "copied", wrong)])
    assert await ledger.find("r", "k") is None
    assert (await ledger.verify_chain("r")).entries == 0
    await ledger.record(audit=[AuditEntry("r", "k", "copied")])
    assert (await ledger.verify_chain("r")).intact


async def test_a_cancelled_call_disturbs_no_other(ledger: Ledger) -> None:
    calls = [asyncio.create_task(ledger.record(receipts=[Receipt("r", f"k{number}", "v", "d")])) for number in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if answer] == [3]
    assert await ledger.in_sync_count("r") >= 9


async def test_what_was_handed_over_is_written_before_the_ledger_closes(ledger: Ledger) -> None:
    calls = [asyncio.create_task(ledger.record(receipts=[Receipt("r", f"k{number}", "v", "d")])) for number in range(10)]
    await asyncio.sleep(0)
    await ledger.close()
    assert all(call.done() for call in calls) or await asyncio.gather(*calls)
    assert await ledger.in_sync_count("r") == 10


async def test_a_group_has_a_bound_unless_one_call_is_larger() -> None:
    groups: list[list[int]] = []

    async def write(batches: Sequence[Batch]) -> None:
        groups.append([len(batch) for batch in batches])

    group = GroupCommit(write)
    sizes = [GROUP_MAX * 2, GROUP_MAX - 1, 1, GROUP_MAX // 2, GROUP_MAX // 2]
    await asyncio.gather(*(group.add(Batch(0.0, released=(("r", "k"),) * size)) for size in sizes))
    assert groups == [[GROUP_MAX * 2], [GROUP_MAX - 1, 1], [GROUP_MAX // 2, GROUP_MAX // 2]]


async def test_a_database_that_is_away_is_asked_once_for_a_group() -> None:
    asked = []

    async def write(batches: Sequence[Batch]) -> None:
        asked.append(len(batches))
        raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    group = GroupCommit(write)
    answers = await asyncio.gather(*(group.add(Batch(0.0, released=(("r", "k"),))) for _ in range(5)), return_exceptions=True)
    assert asked == [5]
    assert [type(answer) for answer in answers] == [LedgerUnavailable] * 5
    assert len(set(map(id, answers))) == 5


async def test_processes_that_touch_the_same_keys_in_another_order_both_get_through(url: str) -> None:
    places = [("r", f"k{number:03}") for number in range(400)]
    ledgers = [Ledger(url), Ledger(url)]
    for _ in range(5):
        await ledgers[0].record(receipts=[Receipt(*place, "v", "d") for place in places])
        await asyncio.gather(
            ledgers[0].record(receipts=[Receipt(*place, "v", "d") for place in places[:200]], forgotten=places[200:]),
            ledgers[1].record(receipts=[Receipt(*place, "v", "d") for place in places[200:]], forgotten=places[:200]),
        )
        assert await ledgers[0].in_sync_count("r") == 200
    for ledger in ledgers:
        await ledger.close()


@pytest.mark.parametrize("committed", [False, True])
async def test_entries_of_a_database_that_went_away_are_written_once_when_it_is_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """It goes away before the commit, or behind it, so that only the answer is lost: a stand-in's doing."""
    transaction = ledger._write
    fired: list[Any] = []

    async def failing(change: Any, *what: Any) -> Any:
        if fired:
            return await transaction(change, *what)
        fired.append(change)
        if committed:
            await transaction(change, *what)
        raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    monkeypatch.setattr(ledger, "_write", failing)
    with pytest.raises(LedgerUnavailable):
        await ledger.record(audit=[AuditEntry("r", "a", "copied"), AuditEntry("r", "a", "deleted")])
    assert fired
    await ledger.record(audit=[AuditEntry("r", "b", "copied")])
    assert [(entry.key, entry.action) for entry in await ledger.audit("r")] == [("a", "copied"), ("a", "deleted"), ("b", "copied")]
    assert (await ledger.verify_chain("r")).intact


@pytest.mark.parametrize("committed", [False, True])
async def test_a_copy_that_is_told_again_after_the_database_was_away_has_one_entry(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Its activity was tried again, and found it in place. What was owed is taken between two failures."""
    transaction, left = ledger._write, [True, False, True, True]
    copied = AuditEntry("r", "a", "copied", destination_version="7")

    async def failing(change: Any, *what: Any) -> Any:
        fails = left.pop(0) if left else False
        if committed or not fails:
            await transaction(change, *what)
        if fails:
            raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    monkeypatch.setattr(ledger, "_write", failing)
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await ledger.record(audit=[copied])
    await ledger.record(audit=[copied])
    await ledger.record(audit=[AuditEntry("r", "a", "copied", destination_version="8")])
    assert [entry.destination_version for entry in await ledger.audit("r")] == ["7", "8"]


async def test_a_copy_that_is_told_by_another_process_before_what_is_owed_has_one_entry(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its activity was tried again in that process, which found it in place."""
    copied = AuditEntry("r", "a", "copied", source_version="s", destination_version="7")

    async def failing(*_: Any) -> Any:
        raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    with monkeypatch.context() as away:
        away.setattr(ledger, "_write", failing)
        with pytest.raises(LedgerUnavailable):
            await ledger.record(audit=[copied, AuditEntry("r", "b", "copied", source_version="s", destination_version="8")])
    other = Ledger(url)
    await other.record(audit=[copied])
    await other.close()
    await ledger.record(audit=[AuditEntry("r", "c", "copied", destination_version="9")])
    assert [entry.key for entry in await ledger.audit("r")] == ["a", "b", "c"]


async def test_entries_that_are_owed_are_written_before_the_ledger_closes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any) -> Any:
        raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    with monkeypatch.context() as away:
        away.setattr(ledger, "_write", failing)
        with pytest.raises(LedgerUnavailable):
            await ledger.record(audit=[AuditEntry("r", "a", "deleted")])
    await ledger.close()
    assert [entry.action for entry in await ledger.audit("r")] == ["deleted"]


async def test_entries_that_nobody_takes_are_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(*_: Any) -> Any:
        raise LedgerUnavailable("away") from OperationalError("", None, Exception())

    monkeypatch.setattr(ledger, "_write", failing)
    with pytest.raises(LedgerUnavailable):
        await ledger.record(audit=[AuditEntry("r", "gone.txt", "deleted")])
    await ledger.close()
    assert "gone.txt" in caplog.text
