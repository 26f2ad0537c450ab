"""Receipts and the quarantine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from embedded.ports import free_port
from ledger.ledger import Ledger
from ledger.rows import AuditEntry, Quarantined, Receipt
from replication.errors import LedgerUnavailable

KEYS = ["a", "A", "a ", "a/", "aa", "B", "é", "e\u0301", "a\0b", "a%", "\ufffd", "\U0010ffff", "\udc80"]


async def test_the_last_receipt_of_a_key_counts(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", "k", "v1", "d1", size_bytes=3, crc32c=7), Receipt("r", "other", "v1", "d1")])
    last = Receipt("r", "k", "v2", "d2", "s-listed", "d-listed", 2**40, 2**32 - 1, "end-to-end", ("acl", 'a"\0'), "w", 99.25)
    await ledger.record(receipts=[last])

    assert await ledger.find("r", "k") == last
    assert await ledger.find("other", "k") is None
    assert await ledger.in_sync_count("r") == 2


async def test_of_two_receipts_in_one_call_the_later_stays(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", "k", "v1", "d1"), Receipt("r", "k", "v2", "d2")])
    assert await ledger.find("r", "k") == Receipt("r", "k", "v2", "d2", recorded_at=12.5)


async def test_keys_are_compared_as_bytes(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", key, f"v{number}", "d") for number, key in enumerate(KEYS)])
    found = [await ledger.find("r", key) for key in KEYS]
    assert [receipt.source_version if receipt else None for receipt in found] == [f"v{number}" for number in range(len(KEYS))]


async def test_a_range_is_in_the_order_of_bytes_and_leaves_its_ends_out(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt(route, key, "v", "d", "s", route) for key in KEYS for route in ("q", "r", "s")])
    ordered = sorted(KEYS, key=lambda key: key.encode("utf-8", "surrogatepass"))

    async def keys(**bounds: Any) -> list[str]:
        return [receipt.key for receipt in await ledger.range("r", **bounds)]

    assert await keys() == ordered
    assert await keys(after=ordered[2], before=ordered[6]) == ordered[3:6]
    assert await keys(after="ab", before="a") == []
    paged: list[str] = []
    while page := await keys(after=paged[-1] if paged else "", limit=3):
        paged += page
    assert paged == ordered
    assert await ledger.tokens("r", after=ordered[2], before=ordered[6]) == (ordered[3:6], [("s", "r")] * 3)
    assert await ledger.tokens("r", after="ab", before="a") == ([], [])


async def test_what_rested_before_a_moment_stands_among_the_receipts(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", key, "v", "d", "s", "t") for key in ("b", "d")])
    await ledger.record(quarantined=[Quarantined(route="r", key=key, reason="x", message="", next_step="") for key in ("a", "b", "c", "e")])
    began = 13.0  # the clock of the tests says 12.5
    seen: list[tuple[str, tuple[str, str]]] = []
    while True:
        keys, tokens = await ledger.tokens("r", after=seen[-1][0] if seen else "", before="e", limit=2, rested_before=began)
        if not keys:
            break
        seen += zip(keys, tokens, strict=True)
    assert seen == [("a", ("", "")), ("b", ("", "")), ("c", ("", "")), ("d", ("s", "t"))]
    assert await ledger.tokens("r", rested_before=began - 1) == (["b", "d"], [("s", "t")] * 2)


async def test_forgotten_receipts_are_gone(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", key, "v", "d") for key in "abc"])
    await ledger.record(forgotten=[("r", "a"), ("r", "c"), ("r", "never"), ("other", "b")])
    assert [receipt.key for receipt in await ledger.range("r")] == ["b"]


async def test_many_writers_at_once_lose_nothing(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.record(receipts=[Receipt("r", f"k{number}", "v", "d")]) for number in range(50)))
    assert await ledger.in_sync_count("r") == 50


async def test_an_object_that_fails_again_counts_and_keeps_its_first_time(ledger: Ledger, clock: Any) -> None:
    await ledger.record(
        quarantined=[Quarantined("r", "k", "server-fault", "first"), Quarantined("r", "b", "no-space", "full", last_at=3.0)]
    )
    clock.now = 20.0
    await ledger.record(quarantined=[Quarantined("r", "k", "permission-refused", "bad \0 \udc80 text", next_step="grant it")])

    assert await ledger.quarantine("r") == [
        Quarantined("r", "b", "no-space", "full", 1, 12.5, 3.0),
        Quarantined("r", "k", "permission-refused", "bad \ufffd ? text", 2, 12.5, 20.0, "grant it"),
    ]
    assert await ledger.quarantine_counts("r") == {"no-space": 1, "permission-refused": 1}
    assert [item.key for item in await ledger.quarantine("r", reason="no-space")] == ["b"]
    assert [item.key for item in await ledger.quarantine("r", after="b")] == ["k"]
    assert [item.key for item in await ledger.quarantine("r", limit=1)] == ["b"]


async def test_a_receipt_and_a_release_end_the_quarantine(ledger: Ledger) -> None:
    await ledger.record(quarantined=[Quarantined("r", key, "server-fault", "") for key in "abc"])
    await ledger.record(receipts=[Receipt("r", "a", "v", "d")], released=[("r", "b"), ("r", "unknown")])
    assert [item.key for item in await ledger.quarantine("r")] == ["c"]


async def test_calls_that_share_a_transaction_count_in_their_order(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", "known", "v", "d")], quarantined=[Quarantined("r", key, "old", "") for key in "ab"])
    await asyncio.gather(
        ledger.record(released=[("r", "unknown")]),
        ledger.record(quarantined=[Quarantined("r", "a", "again", "")]),
        ledger.record(released=[("r", "a"), ("r", "b")]),
        ledger.record(quarantined=[Quarantined("r", "a", "anew", "")]),
        ledger.record(quarantined=[Quarantined("r", "a", "last", "")]),
        ledger.record(receipts=[Receipt("r", "new", "v", "d")], forgotten=[("r", "known")]),
        ledger.record(receipts=[Receipt("r", "known", "v2", "d")], forgotten=[("r", "new")]),
    )
    assert [(item.key, item.reason, item.attempts) for item in await ledger.quarantine("r")] == [("a", "last", 2)]
    assert [(receipt.key, receipt.source_version) for receipt in await ledger.range("r")] == [("known", "v2")]


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")
    with pytest.raises(LedgerUnavailable) as missing:
        await ledger.find("r", "k")
    assert str(missing.value) == f"the ledger does not answer: {tmp_path}/no/such/folder/ledger.db: unable to open database file"
    with pytest.raises(LedgerUnavailable):
        await ledger.record(audit=[AuditEntry("r", "k", "copied")])
    await ledger.close()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"garbage" * 1000)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(LedgerUnavailable) as garbage:
        await ledger.migrate()
    assert str(garbage.value) == f"the ledger does not answer: {tmp_path}/ledger.db: file is not a database"
    await ledger.close()


@pytest.mark.parametrize("query", ["", "?password=secret"])
async def test_a_server_that_refuses_is_named_and_no_password_is(query: str) -> None:
    port = free_port()
    ledger = Ledger(f"postgresql://me:secret@127.0.0.1:{port}/drayage{query}")
    with pytest.raises(LedgerUnavailable) as refused:
        await ledger.migrate()
    told = str(refused.value)
    assert told.startswith(f"the ledger does not answer: 127.0.0.1:{port}/drayage: connection failed: ")
    assert "refused" in told
    assert "secret" not in told
    assert len(told.splitlines()) == 1
    await ledger.close()


async def test_a_server_without_the_database_is_named(postgres: str) -> None:
    ledger = Ledger(make_url(postgres).set(database="nowhere").render_as_string(hide_password=False))
    with pytest.raises(LedgerUnavailable, match=r'/nowhere: connection failed: .*database "nowhere" does not exist$'):
        await ledger.migrate()
    await ledger.close()
