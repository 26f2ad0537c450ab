"""What the ledger holds about one object, set beside what stands at both sides now."""

from __future__ import annotations

from typing import Any

from cli.output import moment
from cli.report import quarantine_document, receipt_document
from cli.session import Session
from cli.states import quarantine_state
from ledger.rows import PendingDeletion, Receipt
from replication.compare import replica_token, source_token
from replication.errors import LedgerUnavailable
from replication.routes import Route
from stores.observe import View


async def records(session: Session, route: Route, key: str, view: View | None) -> tuple[dict[str, Any], bool]:
    """The receipt, the quarantine's entry and the pending deletion (None where there is none), and whether the ledger could
    be asked."""
    try:
        async with session.ledger() as ledger:
            receipt = await ledger.find(route.name, key)
            resting = await ledger.find_quarantined(route.name, key)
            pending = await ledger.find_deletion(route.name, key)
    except LedgerUnavailable as error:
        return {"ledger": {"error": str(error)}}, False
    return {
        "receipt": {**receipt_document(receipt), "matches": matches(receipt, view) if view else None} if receipt else None,
        "quarantine": {"state": quarantine_state(resting.reason), **quarantine_document(resting)} if resting else None,
        "pending_deletion": _pending_document(pending, route.settings.deletions.hold or 0.0) if pending else None,
    }, True


def matches(receipt: Receipt, view: View) -> dict[str, bool]:
    """For each side, whether the version of the receipt stands there: by its own name, or by what a listing shows of it."""
    source, replica = view.source_info, view.replica_info
    source_listed = source_token(source.version, view.source.store.kind) if source else ""
    replica_listed = replica_token(replica.version, view.destination.store.kind) if replica else ""
    return {
        "source": source is not None and (receipt.source_version == source.version.token or receipt.source_listed == source_listed),
        "replica": replica is not None
        and (receipt.destination_version == replica.version.token or receipt.destination_listed == replica_listed),
    }


def _pending_document(pending: PendingDeletion, hold_s: float) -> dict[str, Any]:
    return {"since": moment(pending.since), "pass_id": pending.pass_id, "not_before": moment(pending.since + hold_s)}
