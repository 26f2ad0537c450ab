"""The objects that a verification found right, until a certificate is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from ledger import bulk
from ledger.bulk import decode_key, encode_key
from ledger.rows import VerifiedLeaf
from ledger.schema import leaves, passes


def add(connection: Connection, pass_id: str, found: Sequence[VerifiedLeaf]) -> None:
    """One that is there already is replaced."""
    rows: dict[bytes, dict[str, Any]] = {
        encode_key(leaf.key): {
            "pass_id": pass_id,
            "key": encode_key(leaf.key),
            "size_bytes": leaf.size_bytes,
            "digest": leaf.digest,
            "level": leaf.level,
        }
        for leaf in found
    }
    bulk.upsert(connection, leaves, [rows[key] for key in sorted(rows)])


def page(connection: Connection, pass_id: str, after: str | None, limit: int) -> list[VerifiedLeaf]:
    query = select(leaves.c.key, leaves.c.size_bytes, leaves.c.digest, leaves.c.level).where(leaves.c.pass_id == pass_id)
    if after is not None:
        query = query.where(leaves.c.key > encode_key(after))
    rows = connection.execute(query.order_by(leaves.c.key).limit(limit))
    return [VerifiedLeaf(decode_key(key), size, digest, level) for key, size, digest, level in rows]


def drop(connection: Connection, route: str, not_of_pass: str | None) -> int:
    """How many there were."""
    of_route = select(passes.c.pass_id).where(passes.c.route == route, passes.c.pass_id != (not_of_pass or ""))
    return connection.execute(delete(leaves).where(leaves.c.pass_id.in_(of_route))).rowcount


def last_verified(connection: Connection, route: str) -> float | None:
    """When the newest finished verification of the whole route began."""
    finished = passes.c.state.in_(("done", "incomplete")), passes.c.mode == "verify", passes.c.scope == "route"
    query = select(func.max(passes.c.started_at)).where(passes.c.route == route, *finished)
    found: float | None = connection.execute(query).scalar()
    return found
