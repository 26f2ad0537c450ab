"""What happens next to an object, and when: the last line of `explain`."""

from __future__ import annotations

from typing import Any

SETTLED = frozenset({"in_sync", "keep"})
PHASES = {
    "paused": "nothing until `resume` lets it go on",
    "held": "its replica goes after `approve`",
    "waiting": "looked at again by itself within 15 minutes, and at once after `retry`",
    "stalled": "goes on by itself when what it names stands, and is looked at after `retry`",
    "awaited": "goes on by itself when it appears at the source",
}


def next_step(told: dict[str, Any], next_pass: str | None) -> dict[str, Any]:
    """`what` in words and `at` as a time; `at` is None where no time is known. `next_pass` is when the next one is due."""
    if opened := (told["workflow"].get("open") or {}):
        return {"what": PHASES.get(opened.get("phase") or "", "its workflow is at it now"), "at": None}
    decision = told.get("decision") or {}
    if pending := told.get("pending_deletion"):
        return _deletion(pending, decision, next_pass, told.get("held") or "")
    resting = told.get("quarantine")
    if decision.get("action") in SETTLED and not (resting and decision["reason"] == "both-absent"):
        return {"what": f"nothing until it changes: {decision['reason']}", "at": None}
    if resting:
        return {"what": resting["next_step"], "at": next_pass}
    if not decision:
        return {"what": "unknown while a side cannot be read; an event, `retry` or the next pass looks again", "at": next_pass}
    what = f"{decision['action']} ({decision['reason']}) by the next event, `copy` or pass"
    return {"what": what if next_pass else f"{what}; no pass is scheduled", "at": next_pass}


def _deletion(pending: dict[str, Any], decision: dict[str, Any], next_pass: str | None, held: str) -> dict[str, Any]:
    """The first pass after the hold looks again, and deletes what is still without a source; one that is `held` waits with it."""
    if decision and decision["action"] != "delete":
        return {"what": f"its deletion is dropped by the next pass: {decision['reason']}", "at": next_pass}
    due = pending["not_before"]
    if held:
        return {"what": f"the pass waits for `approve` ({held}); its replica goes then, if {due} is past", "at": None}
    what = f"its replica is deleted by the first pass after {due}, unless `undo` or the source comes first"
    return {"what": what, "at": max(due, next_pass) if next_pass else due}
