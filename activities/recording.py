"""What the ledger keeps of a settled object: the receipt of what stands there, and the audit entry of what was done."""

from __future__ import annotations

from ledger.ledger import Ledger
from ledger.rows import Action, AuditEntry, Quarantined, Receipt
from replication.errors import BY_REASON, ObjectError, Rest
from replication.models import ReplicateObjectResult

RECEIVED = frozenset({"copied", "updated", "in_sync"})
WRITTEN: dict[str, Action] = {"copied": "copied", "updated": "updated", "deleted": "deleted"}
CHOICE = "somebody has to choose a side"
NEXT_STEPS = {
    "blocked": "the {audience} must act; `retry` or the next pass looks again",
    "failed": "`retry` or the next pass looks again",
    "waiting": "looked at again by itself, at the latest by the next pass",
    "again": "the next pass looks again",
}


def receipt_of(result: ReplicateObjectResult, workflow: str) -> Receipt | None:
    """None where the two sides are not known to be equal."""
    if result.outcome not in RECEIVED or not (result.source_version and result.destination_version):
        return None
    return Receipt(
        route=result.route,
        key=result.key,
        source_version=result.source_version,
        destination_version=result.destination_version,
        source_listed=result.source_listed,
        destination_listed=result.destination_listed,
        size_bytes=result.size_bytes,
        crc32c=result.crc32c,
        verification=result.verification,
        losses=tuple(result.losses),
        workflow=workflow,
    )


def audit_of(result: ReplicateObjectResult, workflow: str) -> AuditEntry | None:
    """None where nothing was written or deleted."""
    action = WRITTEN.get(result.outcome)
    if action is None:
        return None
    return AuditEntry(
        route=result.route,
        key=result.key,
        action=action,
        source_version=result.source_version,
        destination_version=result.destination_version,
        size_bytes=result.size_bytes,
        crc32c=result.crc32c,
        reason=result.reason,
        workflow=workflow,
    )


def quarantined(route: str, key: str, error: ObjectError) -> Quarantined:
    """An object that cannot be settled for now: why, and what happens next."""
    return quarantined_for(route, key, error.reason, str(error), next_step(error.reason, error.rests))


def in_conflict(result: ReplicateObjectResult) -> Quarantined:
    """An object that this route may not overwrite."""
    return quarantined_for(result.route, result.key, result.reason, result.message, CHOICE)


def next_step(reason: str, rests: Rest) -> str:
    """What happens next to an object that rests for this reason, and who can change it."""
    known = BY_REASON.get(reason)
    return NEXT_STEPS[rests].format(audience=known.audience if known else ObjectError.audience)


def quarantined_for(route: str, key: str, reason: str, message: str, next_step: str) -> Quarantined:
    return Quarantined(route=route, key=key, reason=reason, message=message[:1000], next_step=next_step)


async def is_told(ledger: Ledger, result: ReplicateObjectResult, since: float) -> bool:
    """Whether the last entry of the key is that of this very copy, and not older than `since` (seconds since 1970)."""
    last = (await ledger.history(result.route, result.key))[-1:]
    copy = "copied", result.source_version, result.destination_version
    return any((entry.action, entry.source_version, entry.destination_version) == copy and entry.at >= since for entry in last)


async def record(ledger: Ledger, result: ReplicateObjectResult, workflow: str, *, told: bool = False) -> None:
    """Keeps what a single object's look led to; `told` where its audit entry is there already. Raises `LedgerUnavailable`."""
    receipt, entry = receipt_of(result, workflow), None if told else audit_of(result, workflow)
    gone = result.outcome == "deleted" or result.reason == "both-absent"
    place = [(result.route, result.key)]
    forgotten, released = place if gone else [], place if gone or result.outcome == "kept" else []
    resting = [in_conflict(result)] if result.outcome == "conflict" else []
    if receipt or entry or released or resting:
        await ledger.record(
            receipts=[receipt] if receipt else [],
            audit=[entry] if entry else [],
            quarantined=resting,
            forgotten=forgotten,
            released=released,
        )
