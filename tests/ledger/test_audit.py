"""The audit chain: it grows without gaps, and every kind of tampering shows."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, delete, event, insert, select, text, update

from ledger.audit import append, verify
from ledger.engine import open_engine, writing
from ledger.ledger import Ledger
from ledger.rows import AuditEntry
from ledger.schema import audit, chains

LENGTH = 2_500


async def fill(ledger: Ledger, route: str = "r", length: int = LENGTH) -> None:
    await ledger.record(audit=[AuditEntry(route, f"k{number % 7}", "copied", f"v{number}", size_bytes=number) for number in range(length)])


def tamper(url: str, change: Callable[[Connection], object]) -> None:
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        change(connection)
    engine.dispose()


async def test_entries_are_numbered_in_each_route_and_come_back_as_they_were(ledger: Ledger) -> None:
    whole = AuditEntry("r", "k\udc80é", "updated", "s", "d", 2**40, 2**32 - 1, "newer", "w", 0.1 + 0.2)
    await ledger.record(audit=[AuditEntry("r", "a", "copied"), AuditEntry("q", "a", "copied"), whole])
    await ledger.record(audit=[AuditEntry("r", "a", "deleted", at=3)])

    first = AuditEntry("r", "a", "copied", at=12.5, sequence=1)
    second = AuditEntry("r", "k\udc80é", "updated", "s", "d", 2**40, 2**32 - 1, "newer", "w", 0.1 + 0.2, 2)
    third = AuditEntry("r", "a", "deleted", at=3.0, sequence=3)
    assert await ledger.audit("r") == [first, second, third]
    assert await ledger.audit("r", after=1, limit=1) == [second]
    assert await ledger.history("r", "a") == [first, third]
    assert (await ledger.verify_chain("r")).intact
    assert (await ledger.verify_chain("q")).entries == 1


async def test_an_empty_chain_is_intact(ledger: Ledger) -> None:
    report = await ledger.verify_chain("never")
    assert (report.entries, report.head, report.intact, report.broken_at) == (0, "", True, None)


async def test_anyone_can_compute_the_head(ledger: Ledger) -> None:
    await ledger.record(audit=[AuditEntry("r", "é", "copied"), AuditEntry("r", "b", "deleted", crc32c=7)])
    head = b""
    for sequence, key, action, crc32c in [(1, "é", "copied", None), (2, "b", "deleted", 7)]:
        entry = {
            "route": "r", "sequence": sequence, "key": key, "action": action, "source_version": "", "destination_version": "",
            "size_bytes": 0, "crc32c": crc32c, "reason": "", "workflow": "", "at": 12.5,
        }  # fmt: skip
        head = hashlib.sha256(head + json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).digest()
    assert (await ledger.verify_chain("r")).head == head.hex()


async def test_a_chain_is_verified_as_it_stood_at_one_moment(ledger: Ledger) -> None:
    await fill(ledger)

    async def grow() -> None:
        for _ in range(20):
            await ledger.record(audit=[AuditEntry("r", "more", "copied")])

    growing = asyncio.create_task(grow())
    reports = await asyncio.gather(*(ledger.verify_chain("r") for _ in range(5)))
    await growing
    assert all(report.intact for report in reports)
    assert (await ledger.verify_chain("r")).entries == LENGTH + 20


async def test_an_entry_that_comes_after_the_end_was_read_is_none_behind_it(ledger: Ledger, url: str) -> None:
    """The end and the entries are two statements: on PostgreSQL only REPEATABLE READ shows both as they stood at one moment."""
    await fill(ledger, length=9)
    reader, added = open_engine(url), list[str]()

    def add(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "FROM audit" in statement and not added:
            added.append(statement)
            tamper(url, lambda other: append(other, [(AuditEntry("r", "more", "copied"), 1.0)]))

    event.listen(reader, "before_cursor_execute", add)
    with reader.connect() as connection:
        report = verify(connection, "r", None)
    reader.dispose()

    assert len(added) == 1
    assert (report.problem, report.entries, report.intact) == ("", 9, True)
    assert (await ledger.verify_chain("r")).entries == 10


MIDDLE = audit.c.sequence == 1_700
CHANGES = [({"key": b"other"}), ({"action": "deleted"}), ({"at": 12.25}), ({"size_bytes": 0}), ({"crc32c": 0}), ({"hash": b"0" * 32})]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
async def test_a_changed_entry_is_found(ledger: Ledger, url: str, change: dict[str, object]) -> None:
    await fill(ledger)
    tamper(url, lambda connection: connection.execute(update(audit).where(MIDDLE).values(change)))
    report = await ledger.verify_chain("r")
    assert (report.intact, report.broken_at, report.entries) == (False, 1_700, 1_699)
    assert "not what was written" in report.problem


async def changed_by(ledger: Ledger, url: str, statement: str) -> tuple[bool, int | None, int]:
    await fill(ledger, length=9)
    tamper(url, lambda connection: connection.execute(text(statement)))
    report = await ledger.verify_chain("r")
    return report.intact, report.broken_at, report.entries


async def test_a_key_of_no_encoding_is_found(ledger: Ledger, url: str) -> None:
    value = "x'ff'" if url.startswith("sqlite") else r"'\xff'"
    assert await changed_by(ledger, url, f"UPDATE audit SET key = {value} WHERE sequence = 5") == (False, 5, 4)  # noqa: S608


ODD = [
    "key = 'a'",
    "key = 1e15",
    "action = x'01'",
    "action = CAST(x'ff' AS TEXT)",
    "at = 9e999",
    "at = 'x'",
    "hash = 'a'",
    "hash = 1000000000000",
]


@pytest.mark.parametrize("change", ODD)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_an_entry_of_values_that_none_can_have_is_found(ledger: Ledger, url: str, change: str) -> None:
    assert await changed_by(ledger, url, f"UPDATE audit SET {change} WHERE sequence = 5") == (False, 5, 4)  # noqa: S608


@pytest.mark.parametrize(("value", "sequence"), [("'x'", 5), ("'x'", 9), ("x'05'", 9), ("9.5", 9)])
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_an_entry_whose_number_is_none_is_found(ledger: Ledger, url: str, value: str, sequence: int) -> None:
    statement = f"UPDATE audit SET sequence = {value} WHERE sequence = {sequence}"  # noqa: S608
    assert await changed_by(ledger, url, statement) == (False, sequence, sequence - 1)


@pytest.mark.parametrize("change", ["sequence = 'x'", "sequence = 9.5", "hash = 'x'", "hash = CAST(x'ff' AS TEXT)", "hash = 1000000000000"])
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_an_end_of_values_that_none_can_have_is_found(ledger: Ledger, url: str, change: str) -> None:
    assert await changed_by(ledger, url, f"UPDATE chains SET {change}") == (False, 1, 0)  # noqa: S608


@pytest.mark.parametrize("sequence", [1, 1_700, LENGTH], ids=["start", "middle", "end"])
async def test_a_removed_entry_is_found(ledger: Ledger, url: str, sequence: int) -> None:
    await fill(ledger)
    tamper(url, lambda connection: connection.execute(delete(audit).where(audit.c.sequence == sequence)))
    report = await ledger.verify_chain("r")
    assert (report.intact, report.broken_at, report.problem) == (False, sequence, f"entry {sequence} is missing")


async def test_a_removed_entry_is_found_where_the_rest_is_numbered_anew(ledger: Ledger, url: str) -> None:
    await fill(ledger, length=9)

    def remove(connection: Connection) -> None:
        connection.execute(delete(audit).where(audit.c.sequence == 5))
        for sequence in range(6, 10):
            connection.execute(update(audit).where(audit.c.sequence == sequence).values(sequence=sequence - 1))
        connection.execute(update(chains).values(sequence=8))

    tamper(url, remove)
    assert (await ledger.verify_chain("r")).broken_at == 5


@pytest.mark.parametrize("sequence", [0, 6, 10], ids=["start", "middle", "end"])
async def test_an_inserted_entry_is_found(ledger: Ledger, url: str, sequence: int) -> None:
    await fill(ledger, length=9)

    def add(connection: Connection) -> None:
        for moved in range(9, sequence - 1, -1) if sequence else ():
            connection.execute(update(audit).where(audit.c.sequence == moved).values(sequence=moved + 1))
        copied = connection.execute(select(audit).where(audit.c.sequence == 1)).mappings().one()
        connection.execute(insert(audit).values({**copied, "sequence": sequence}))

    tamper(url, add)
    report = await ledger.verify_chain("r")
    assert (report.intact, report.broken_at) == (False, sequence)


async def test_an_older_end_is_found(ledger: Ledger, url: str) -> None:
    await fill(ledger, length=9)
    tamper(url, lambda connection: connection.execute(update(chains).values(sequence=8)))
    assert (await ledger.verify_chain("r")).problem == "entry 9 stands behind the end of the chain"


async def test_another_end_is_found(ledger: Ledger, url: str) -> None:
    await fill(ledger, length=9)
    tamper(url, lambda connection: connection.execute(update(chains).values(hash=b"1" * 32)))
    assert (await ledger.verify_chain("r")).problem == "entry 9 is not the one that the chain ends with"


@pytest.mark.parametrize("table", [audit, chains], ids=["entries", "end"])
async def test_a_table_that_was_emptied_is_found(ledger: Ledger, url: str, table: object) -> None:
    await fill(ledger, length=9)
    tamper(url, lambda connection: connection.execute(delete(audit if table is audit else chains)))
    assert (await ledger.verify_chain("r")).broken_at == 1


def cut_short(connection: Connection) -> None:
    """To six entries, and the end with them."""
    connection.execute(delete(audit).where(audit.c.sequence > 6))
    last = select(audit.c.hash).where(audit.c.sequence == 6).scalar_subquery()
    connection.execute(update(chains).values(sequence=6, hash=last))


def emptied(connection: Connection) -> None:
    connection.execute(delete(audit))
    connection.execute(delete(chains))


async def test_a_head_that_was_kept_is_met_in_the_chain_that_grew_from_it(ledger: Ledger) -> None:
    await fill(ledger, length=9)
    head = (await ledger.verify_chain("r")).head
    assert (await ledger.verify_chain("r", kept=head)).intact
    await fill(ledger)
    assert (await ledger.verify_chain("r", kept=head.upper())).entries == LENGTH + 9
    assert (await ledger.verify_chain("r", kept=head)).intact


@pytest.mark.parametrize("change", [cut_short, emptied])
@pytest.mark.parametrize("again", [0, 3], ids=["", "grown"])
async def test_a_chain_that_lost_its_end_does_not_have_the_head_that_was_kept(
    ledger: Ledger, url: str, change: Callable[[Connection], None], again: int
) -> None:
    await fill(ledger, length=9)
    head = (await ledger.verify_chain("r")).head
    tamper(url, change)
    await fill(ledger, length=again)
    assert (await ledger.verify_chain("r")).intact
    report = await ledger.verify_chain("r", kept=head)
    assert (report.intact, report.broken_at, report.entries) == (False, None, (6 if change is cut_short else 0) + again)
    assert report.problem == "none of them has the head that was kept"
