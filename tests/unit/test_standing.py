"""How commands word what the ledger and Temporal tell: states, the next step, the age of the oldest open object."""

from __future__ import annotations

from typing import Any

import pytest

from cli.next_step import next_step
from cli.standing import PRECISION, _largest
from cli.states import quarantine_state
from cli.status import _pass
from ledger.rows import PassRecord, last_ended

DUE = "2026-01-31T08:00:00Z"
LATER = "2026-02-01T08:00:00Z"
IDLE = {"open": None, "last": None}


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("permission-refused", "blocked"),
        ("endpoint-unreachable", "waiting"),
        ("server-fault", "failed"),
        ("attempts-lost", "failed"),
        ("defect", "failed"),
        ("foreign-conflict", "blocked"),
    ],
)
def test_a_reason_says_where_an_object_rests(reason: str, state: str) -> None:
    assert quarantine_state(reason) == state


PENDING = {"since": "2026-01-31T07:00:00Z", "not_before": LATER}
RESTING = {"next_step": "`retry` or the next pass looks again"}
CASES: dict[str, tuple[dict[str, Any], str | None, str, str | None]] = {
    "an open workflow": ({"workflow": {"open": {"phase": "copying"}}}, DUE, "its workflow is at it now", None),
    "a paused one": ({"workflow": {"open": {"phase": "paused"}}}, DUE, "nothing until `resume` lets it go on", None),
    "in sync": ({"decision": {"action": "in_sync", "reason": "same"}}, DUE, "nothing until it changes: same", None),
    "in quarantine, on neither side": (
        {"decision": {"action": "in_sync", "reason": "both-absent"}, "quarantine": RESTING},
        DUE,
        RESTING["next_step"],
        DUE,
    ),
    "in quarantine": ({"decision": {"action": "copy", "reason": "r"}, "quarantine": RESTING}, DUE, RESTING["next_step"], DUE),
    "to be deleted": ({"decision": {"action": "delete", "reason": "r"}, "pending_deletion": PENDING}, DUE, "its replica is deleted", LATER),
    "back again": ({"decision": {"action": "copy", "reason": "r"}, "pending_deletion": PENDING}, DUE, "its deletion is dropped", DUE),
    "a side unknown": ({"error": {}}, DUE, "unknown while a side cannot be read", DUE),
    "to be copied": ({"decision": {"action": "copy", "reason": "r"}}, DUE, "copy (r) by the next event", DUE),
    "with no schedule": ({"decision": {"action": "copy", "reason": "r"}}, None, "copy (r) by the next event", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_next_step_follows_from_what_is_known(case: str) -> None:
    told, next_pass, what, at = CASES[case]
    step = next_step({"workflow": IDLE, **told}, next_pass)

    assert step["what"].startswith(what)
    assert step["at"] == at


@pytest.mark.parametrize("oldest", [1.0, 59.0, 3_600.5, 86_400 * 40.0])
async def test_the_oldest_is_found_with_few_questions(oldest: float) -> None:
    asked = []

    async def is_any_older(seconds: float) -> bool:
        asked.append(seconds)
        return oldest > seconds

    found = await _largest(is_any_older, 1.0)
    assert found <= oldest <= found * PRECISION * 1.01
    assert len(asked) < 40


def test_an_ended_verification_is_told_with_its_anomalies() -> None:
    counters = {"listed": 35, "skipped": 34, "differing": 1, "extra": 8}

    assert _pass({"mode": "verify", "state": "incomplete", "counters": counters}) == (
        "verify incomplete: 35 listed, 34 right, 1 with anomalies, 8 at the destination only"
    )


def test_a_dry_run_is_told_as_what_would_be_done() -> None:
    counters = {"listed": 4, "copied": 1, "updated": 1, "skipped": 1, "deleted": 1}
    found = {"mode": "plan", "state": "done", "counters": counters}
    assert _pass(found) == "plan done: 4 listed, 1 to copy, 1 to update, 1 in sync, 1 to delete"
    assert _pass(found | {"mode": "repair"}) == "repair done: 4 listed, 1 copied, 1 updated, 1 in sync, 1 deleted"


def test_the_last_pass_is_the_one_that_ended_last() -> None:
    def record(name: str, ended_at: float | None) -> PassRecord:
        return PassRecord(name, "r", "repair", "done", ended_at=ended_at)

    held, dry = record("held", 9.0), record("dry", 5.0)
    assert last_ended([record("running", None), dry, held]) == held, "although the other began later"
    assert last_ended([record("running", None)]) is None
