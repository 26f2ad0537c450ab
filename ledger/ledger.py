"""The ledger: receipts, audit chain, quarantine, passes. One database for all routes, shared by any number of workers.

A receipt is evidence and not truth: without it a decision falls back on checksums and marks, so a lost ledger loses no object.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ledger import audit, budgets, leaves, passes, queries
from ledger.batch import Batch, Place, write
from ledger.engine import CONNECTIONS, migrate, open_engine, place_of, transact, words_of
from ledger.group import GroupCommit, is_away
from ledger.lookup import Lookup
from ledger.rows import AuditEntry, BudgetUser, ChainReport, Finding, PassRecord, PendingDeletion, Quarantined, Receipt, VerifiedLeaf
from replication.errors import LedgerUnavailable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class Ledger:
    """The ledger at a database URL (`sqlite:///path` or `postgresql://…`), opened and migrated when first used.

    Safe for any number of processes, and of concurrent calls in the event loop of its first. Every call raises
    `LedgerUnavailable` when the database fails. Pages are in the order of the keys' bytes, from behind `after`.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._clock = clock
        self._opened: Engine | None = None
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ledger")
        self._group = GroupCommit(self._commit)
        self._lookup = Lookup(lambda places: self._read(queries.find_receipts, places))
        self._owed: list[AuditEntry] = []
        """What was done and could not be put on record; it goes ahead of whatever comes next."""

    async def migrate(self) -> str:
        """Brings the schema to the newest revision, and returns it."""
        return await self._run(migrate, await self._engine())

    async def close(self) -> None:
        """Waits for what is being written. A closed ledger opens again when it is used."""
        await self._group.finish()
        with suppress(LedgerUnavailable):
            await self._pay()
            self._owed = []
        self._give_up("the ledger does not answer")
        engine, self._opened = self._opened, None
        if engine is not None:
            await self._run(engine.dispose)

    # --- objects -------------------------------------------------------------------------------------------------

    async def find(self, route: str, key: str) -> Receipt | None:
        """Who asks while others do shares a query with them."""
        return await self._lookup.find((route, key))

    async def range(self, route: str, *, after: str = "", before: str | None = None, limit: int = 10_000) -> list[Receipt]:
        """Receipts with after < key < before; None is no bound."""
        return await self._read(queries.receipt_range, route, after, before, limit)

    async def tokens(
        self, route: str, *, after: str = "", before: str | None = None, limit: int = 10_000, rested_before: float = 0.0
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """As `range`: only the keys, and what listings show of both versions of each. Objects that have been in the quarantine
        since before `rested_before` are among them, with `NO_TOKENS` in the place of those of a receipt."""
        return await self._read(queries.token_range, route, after, before, limit, rested_before)

    async def in_sync_count(self, route: str) -> int:
        """Receipts of objects that neither rest after a failure nor are about to be deleted."""
        return await self._read(queries.in_sync_count, route)

    async def record(
        self,
        *,
        receipts: Iterable[Receipt] = (),
        audit: Iterable[AuditEntry] = (),
        quarantined: Iterable[Quarantined] = (),
        released: Iterable[Place] = (),
        forgotten: Iterable[Place] = (),
    ) -> None:
        """All of it in one transaction, committed on return. Times that are 0 become now.

        A receipt takes the place of the one before and releases its object from the quarantine; an object that is
        quarantined again counts one more attempt. `forgotten` receipts are removed. Concurrent calls share transactions.
        Audit entries that a database which does not answer did not take are kept, and written when it does.
        """
        batch = Batch(self._clock(), tuple(receipts), tuple(audit), tuple(quarantined), tuple(released), tuple(forgotten))
        if len(batch):
            await self._group.add(batch)

    async def _commit(self, batches: Sequence[Batch]) -> None:
        batches = [replace(batch, audit=not_owed(batch.audit, self._owed)) for batch in batches]
        try:
            await self._pay()
            await self._write(write, batches)
            self._owed = []  # not before: who could not record the rest tells its copies again
        except LedgerUnavailable as error:
            if is_away(error):
                self._owed += [replace(entry, at=entry.at or batch.now) for batch in batches for entry in batch.audit]
            raise

    async def _pay(self) -> None:
        """Writes what is owed, but for what was committed although the answer was lost."""
        if not self._owed:
            return
        try:
            await self._write(audit.append_missing, self._owed)
        except LedgerUnavailable as error:
            if is_away(error):
                raise
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        for entry in self._owed:
            log.error("not in the audit chain: %s: %s", reason, entry)
        self._owed = []

    async def quarantine(
        self, route: str, *, reason: str | None = None, since: float = 0.0, after: str = "", limit: int = 1000
    ) -> list[Quarantined]:
        """Those that were last put there at `since` or later."""
        return await self._read(queries.quarantined, route, reason, since, after, limit)

    async def find_quarantined(self, route: str, key: str) -> Quarantined | None:
        return await self._read(queries.find_quarantined, route, key)

    async def quarantine_counts(self, route: str) -> dict[str, int]:
        """How many objects rest for each reason."""
        return await self._read(queries.quarantine_counts, route)

    # --- audit -----------------------------------------------------------------------------------------------------

    async def history(self, route: str, key: str) -> list[AuditEntry]:
        """Every change of one key, oldest first."""
        return await self._read(audit.history, route, key)

    async def audit(self, route: str, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Entries with a sequence number above `after`, oldest first."""
        return await self._read(audit.entries, route, after, limit)

    async def verify_chain(self, route: str, *, kept: str | None = None) -> ChainReport:
        """Reads the whole chain of a route, in bounded memory. Unless an entry has the `kept` head, in hex, it is broken."""
        return await self._read(audit.verify, route, None if kept is None else bytes.fromhex(kept))

    # --- passes ------------------------------------------------------------------------------------------------------

    async def begin_pass(self, record: PassRecord) -> None:
        """Keeps the record of a pass. Repeated, it replaces all but `started_at`; a pass that has ended stays as it is."""
        await self._write(passes.begin, record, self._clock())

    async def end_pass(self, pass_id: str, *, state: str, reason: str = "", counters: dict[str, int]) -> None:
        """Repeated, it replaces all but `ended_at`. A pass that never began is left alone."""
        await self._write(passes.end, pass_id, state, reason, counters, self._clock())

    async def passes(self, route: str, limit: int = 20) -> list[PassRecord]:
        """The newest first."""
        return await self._read(passes.newest, route, limit)

    async def find_pass(self, pass_id: str) -> PassRecord | None:
        return await self._read(passes.find, pass_id)

    async def hold_deletions(self, pending: Sequence[PendingDeletion]) -> None:
        """Keeps them. Of one that is held already, the pass and the version are replaced, and `since` stays."""
        await self._write(passes.hold, pending, self._clock())

    async def pending_deletions(
        self, route: str, *, pass_id: str | None = None, since_before: float | None = None, after: str = "", limit: int = 1000
    ) -> list[PendingDeletion]:
        return await self._read(passes.held, route, pass_id, since_before, after, limit)

    async def find_deletion(self, route: str, key: str) -> PendingDeletion | None:
        return await self._read(passes.find_held, route, key)

    async def pending_count(self, route: str, *, pass_id: str | None = None) -> int:
        return await self._read(passes.held_count, route, pass_id)

    async def drop_deletions(self, route: str, keys: Sequence[str] | None = None, *, not_of_pass: str | None = None) -> int:
        """Forgets those of the keys, or of the whole route; with `not_of_pass` only those last seen by another pass."""
        return await self._write(passes.drop, route, keys, not_of_pass)

    async def add_findings(self, pass_id: str, findings: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        """Keeps (sequence, key, document), each in place of the one before of its sequence number."""
        await self._write(passes.add_findings, pass_id, findings, self._clock())

    async def findings(self, pass_id: str, *, after: int = -1, limit: int = 1000) -> list[Finding]:
        return await self._read(passes.findings_of, pass_id, after, limit)

    async def drop_findings(self, *, older_than: float) -> int:
        """Forgets those of passes that ended before this time (seconds since 1970); how many there were."""
        return await self._write(passes.drop_findings, older_than)

    async def last_verified(self, route: str) -> float | None:
        """When the newest finished verification of the whole route began."""
        return await self._read(leaves.last_verified, route)

    # --- budgets -----------------------------------------------------------------------------------------------------

    async def share_budgets(self, process: str, users: Mapping[str, int], beat: int) -> list[BudgetUser]:
        """Tells how many users each budget has in this process, and reads those of all. `beat` is another one at each call."""
        return await self._write(budgets.share, process, users, beat)

    async def forget_budget_users(self, gone: Sequence[BudgetUser]) -> None:
        """Unless they have moved since."""
        await self._write(budgets.forget, gone)

    # --- certificates ------------------------------------------------------------------------------------------------

    async def add_leaves(self, pass_id: str, found: Sequence[VerifiedLeaf]) -> None:
        """Keeps them, each in place of the one before of its key."""
        await self._write(leaves.add, pass_id, found)

    async def leaves(self, pass_id: str, *, after: str | None = None, limit: int = 10_000) -> list[VerifiedLeaf]:
        return await self._read(leaves.page, pass_id, after, limit)

    async def drop_leaves(self, route: str, *, not_of_pass: str | None = None) -> int:
        """Forgets those of all passes of a route, or of all but one; how many there were."""
        return await self._write(leaves.drop, route, not_of_pass)

    # --- the database --------------------------------------------------------------------------------------------------

    async def _read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        engine = await self._engine()

        def work() -> T:
            with engine.connect() as connection:
                return query(connection, *args, **kwargs)

        return await self._run(work)

    async def _write(self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction at a time in this process, so that its writers wait here and not at the database's locks."""
        engine = await self._engine()
        async with self._writing:
            return await self._run(transact, engine, lambda connection: change(connection, *args, **kwargs))

    async def _engine(self) -> Engine:
        async with self._opening:
            if self._opened is None:
                self._opened = await self._run(_open, self._url)
        return self._opened

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        except (SQLAlchemyError, OSError) as error:
            raise LedgerUnavailable(f"the ledger does not answer: {place_of(self._url)}: {words_of(error)}") from error


def not_owed(told: Sequence[AuditEntry], owed: Sequence[AuditEntry]) -> tuple[AuditEntry, ...]:
    """What is `told` without the copies that are `owed`: whoever could not record one finds it in place, and tells it again."""
    known = {_copy_of(entry) for entry in owed if entry.action == "copied"}
    return tuple(entry for entry in told if entry.action != "copied" or _copy_of(entry) not in known)


def _copy_of(entry: AuditEntry) -> tuple[str, str, str]:
    return entry.route, entry.key, entry.destination_version


def _open(url: str) -> Engine:
    engine = open_engine(url)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine
