"""The states of the objects that the ledger knows."""

from __future__ import annotations

from typing import Literal

from replication.errors import BY_REASON

State = Literal["in_sync", "waiting", "blocked", "failed", "deletion_pending"]
STATES: tuple[State, ...] = ("in_sync", "waiting", "blocked", "failed", "deletion_pending")
RESTING: tuple[State, ...] = ("waiting", "blocked", "failed")
"""The states of the quarantine."""


def quarantine_state(reason: str) -> State:
    """Where an object rests for this reason. One that is no error of the tree is a conflict: somebody has to choose."""
    known = BY_REASON.get(reason)
    if known is None:
        return "failed" if reason in ("defect", "attempts-lost") else "blocked"
    return "blocked" if known.rests == "blocked" else "waiting" if known.rests == "waiting" else "failed"
