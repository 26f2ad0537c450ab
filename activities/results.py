"""What one look at one key came to, in the words of `Settlement`: results of what was done, and pauses before deletions."""

from __future__ import annotations

from activities.deletions import Permit
from activities.plans import SmallPlan
from replication.compare import replica_token, source_token
from replication.models import CopyPlan, ObjectInfo, Outcome, Pause, ReplicateObjectResult, Settlement, Verification
from replication.routes import Route
from replication.verify import same_checksums
from stores.observe import View
from stores.transfer import Place, Transferred

MAX_LOSSES = 50
HELD_S = 900.0
"""Seconds until a deletion that waits for an operator asks again by itself."""
PACED_S = 12.0
"""Seconds until one asks again that waits for others to be counted."""
COLLECTED = Pause(phase="waiting", reason="deletion-collected", message="a pass deletes at its end", seconds=HELD_S)


def copied(route: Route, source: Place, destination: Place, plan: CopyPlan | SmallPlan, done: Transferred) -> ReplicateObjectResult:
    """Of a copy that is done."""
    return ReplicateObjectResult(
        route=route.name,
        key=source.key,
        outcome="copied",
        reason=plan.reason,
        bytes_copied=done.bytes_sent,
        size_bytes=plan.source.size_bytes,
        verification=done.verification,
        crc32c=done.checksums.crc32c,
        source_version=plan.source.token,
        destination_key=destination.key,
        destination_version=done.info.version.token,
        source_listed=source_token(plan.source, source.store.kind),
        destination_listed=replica_token(done.info.version, destination.store.kind),
        losses=plan.losses[:MAX_LOSSES],
    )


def pause_of_hold(hold_s: float, left_s: float) -> Pause:
    """Of a deletion whose hold has not passed."""
    message = f"gone from the source; its replica goes when it has been gone for {hold_s:g} s"
    return Pause(phase="waiting", reason="deletion-hold", message=message, seconds=left_s)


def pause_for(permit: Permit) -> Pause:
    """Of a deletion that got no permit."""
    if permit.held:
        return Pause(phase="held", reason="deletions-held", message=permit.reason, seconds=HELD_S)
    return Pause(phase="waiting", reason="deletions-paced", message=permit.reason, seconds=PACED_S)


def left_to_passes(route: Route, key: str, pause: Pause) -> Settlement:
    """Of an object that went after a pass had listed it. The pass would wait for as long as the pause: the next one finds the
    replica without a source, and deletes by the rules of passes."""
    return Settlement(result=plain_result(route, key, "waiting", pause.reason, pause.message))


def told(view: View, outcome: Outcome) -> Settlement:
    """A result that the decision itself explains; nothing was sent."""
    source, replica = view.source_info, view.replica_info
    decision = view.decision
    result = plain_result(view.route, view.source.key, outcome, decision.reason, decision.message)
    agree = source is not None and replica is not None and same_checksums(source.checksums, replica.checksums) is True
    verification: Verification = "end-to-end" if agree and outcome in ("in_sync", "updated") else ""
    return Settlement(
        result=result.model_copy(
            update={
                "size_bytes": source.size_bytes if source else 0,
                "verification": verification,
                "source_version": _token(source),
                "destination_key": view.destination.key,
                "destination_version": _token(replica),
                "source_listed": source_token(source.version, view.source.store.kind) if source else "",
                "destination_listed": replica_token(replica.version, view.destination.store.kind) if replica else "",
                "losses": list(view.mapped.losses[:MAX_LOSSES]) if view.mapped else [],
            }
        )
    )


def _token(info: ObjectInfo | None) -> str:
    return info.version.token if info else ""


def plain_result(route: Route, key: str, outcome: Outcome, reason: str, message: str) -> ReplicateObjectResult:
    """Without anything about either side."""
    return ReplicateObjectResult(route=route.name, key=key, outcome=outcome, reason=reason, message=message)
