"""What passes keep: their records, the deletions they hold back, and the lines of their plans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, exists, func, select, update
from sqlalchemy.sql import ColumnElement

from ledger import bulk
from ledger.bulk import decode_key, encode_key
from ledger.rows import Finding, PassRecord, PendingDeletion
from ledger.schema import findings, passes, pending_deletions

Document = dict[str, Any]


def begin(connection: Connection, record: PassRecord, now: float) -> None:
    """Repeated, it replaces all but `started_at`, unless the pass has ended."""
    ended = select(passes.c.pass_id).where(passes.c.pass_id == record.pass_id, passes.c.ended_at.is_not(None))
    if connection.execute(ended).first() is None:
        row = {
            "pass_id": record.pass_id,
            "route": record.route,
            "mode": record.mode,
            "state": record.state,
            "reason": record.reason,
            "started_at": record.started_at or now,
            "ended_at": record.ended_at,
            "counters": json.dumps(record.counters),
            "workflow": record.workflow,
            "scope": record.scope,
        }
        bulk.upsert(connection, passes, [row], kept=("started_at",))


def end(connection: Connection, pass_id: str, state: str, reason: str, counters: dict[str, int], now: float) -> None:
    """Repeated, it replaces all but `ended_at`."""
    values = {"state": state, "reason": reason, "counters": json.dumps(counters), "ended_at": func.coalesce(passes.c.ended_at, now)}
    connection.execute(update(passes).where(passes.c.pass_id == pass_id).values(values))


def newest(connection: Connection, route: str, limit: int) -> list[PassRecord]:
    order = passes.c.started_at.desc(), passes.c.pass_id.desc()
    return [_pass(row) for row in connection.execute(select(passes).where(passes.c.route == route).order_by(*order).limit(limit))]


def find(connection: Connection, pass_id: str) -> PassRecord | None:
    row = connection.execute(select(passes).where(passes.c.pass_id == pass_id)).one_or_none()
    return row if row is None else _pass(row)


def _pass(row: Any) -> PassRecord:
    return PassRecord(**{**row._mapping, "counters": json.loads(row.counters)})


def hold(connection: Connection, pending: Sequence[PendingDeletion], now: float) -> None:
    rows = {
        (item.route, encode_key(item.key)): {
            "route": item.route,
            "key": encode_key(item.key),
            "pass_id": item.pass_id,
            "destination_version": item.destination_version,
            "since": float(item.since or now),
        }
        for item in pending
    }
    bulk.upsert(connection, pending_deletions, [rows[place] for place in sorted(rows)], kept=("since",))


def held(
    connection: Connection, route: str, pass_id: str | None, since_before: float | None, after: str, limit: int
) -> list[PendingDeletion]:
    query = select(pending_deletions).where(_of(route, pass_id), pending_deletions.c.key > encode_key(after))
    if since_before is not None:
        query = query.where(pending_deletions.c.since < since_before)
    rows = connection.execute(query.order_by(pending_deletions.c.key).limit(limit))
    return [_pending(row) for row in rows]


def find_held(connection: Connection, route: str, key: str) -> PendingDeletion | None:
    query = select(pending_deletions).where(pending_deletions.c.route == route, pending_deletions.c.key == encode_key(key))
    row = connection.execute(query).one_or_none()
    return row if row is None else _pending(row)


def _pending(row: Any) -> PendingDeletion:
    return PendingDeletion(**{**row._mapping, "key": decode_key(row.key)})


def held_count(connection: Connection, route: str, pass_id: str | None) -> int:
    return connection.execute(select(func.count()).select_from(pending_deletions).where(_of(route, pass_id))).scalar_one()


def _of(route: str, pass_id: str | None) -> ColumnElement[bool]:
    of_route = pending_deletions.c.route == route
    return of_route if pass_id is None else of_route & (pending_deletions.c.pass_id == pass_id)


def drop(connection: Connection, route: str, keys: Sequence[str] | None, not_of_pass: str | None) -> int:
    """How many there were."""
    if keys is not None:
        rows = [{"route": route, "key": key} for key in sorted({encode_key(key) for key in keys})]
        return bulk.remove(connection, pending_deletions, rows, unless={"pass_id": not_of_pass} if not_of_pass is not None else {})
    query = delete(pending_deletions).where(pending_deletions.c.route == route)
    if not_of_pass is not None:
        query = query.where(pending_deletions.c.pass_id != not_of_pass)
    return connection.execute(query).rowcount


def add_findings(connection: Connection, pass_id: str, found: Sequence[tuple[int, str, Document]], now: float) -> None:
    rows = {
        sequence: {"pass_id": pass_id, "sequence": sequence, "key": encode_key(key), "document": json.dumps(document), "at": now}
        for sequence, key, document in found
    }
    bulk.upsert(connection, findings, [rows[sequence] for sequence in sorted(rows)])


def findings_of(connection: Connection, pass_id: str, after: int, limit: int) -> list[Finding]:
    query = select(findings).where(findings.c.pass_id == pass_id, findings.c.sequence > after).order_by(findings.c.sequence)
    rows = connection.execute(query.limit(limit))
    return [Finding(row.pass_id, row.sequence, decode_key(row.key), json.loads(row.document)) for row in rows]


def drop_findings(connection: Connection, older_than: float) -> int:
    """How many there were. A pass that ended after this time keeps its own, as does one that runs: the newest without an end."""
    newer = passes.alias()
    superseded = exists().where(newer.c.route == passes.c.route, newer.c.mode == passes.c.mode, newer.c.started_at > passes.c.started_at)
    kept = select(passes.c.pass_id).where((passes.c.ended_at >= older_than) | (passes.c.ended_at.is_(None) & ~superseded))
    return connection.execute(delete(findings).where(findings.c.at < older_than, findings.c.pass_id.not_in(kept))).rowcount
