"""The objects that a pass could not settle, as its closing lines name them: some, how many more, and how to see all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from cli.output import printable
from cli.states import quarantine_state
from ledger.ledger import Ledger
from replication.passes import Counters, Mode

MAX_NAMED = 20
PAGE = 1_000
UNSETTLED = ("blocked", "failed")

Told = tuple[str, str]
"""A state of `UNSETTLED`, and a line about an object that rests in it."""


async def unsettled(ledger: Ledger, pass_id: str, mode: Mode, counters: Counters, listing: Callable[[str], str]) -> list[str]:
    """`listing` makes the command that lists every object of a state. Raises `LedgerUnavailable`."""
    record = await ledger.find_pass(pass_id) if counters.failed + counters.blocked else None
    if record is None or mode == "verify":
        return []
    told = _found(ledger, pass_id) if mode == "plan" else _resting(ledger, record.route, record.started_at)
    lines, states, count = [], set(), 0
    async for state, line in told:
        count += 1
        if count <= MAX_NAMED:
            lines.append(printable(line))
        states.add(state)
    if count > MAX_NAMED:
        commands = " and ".join(listing(state) for state in sorted(states)) if mode == "repair" else ""
        lines.append(f"and {count - MAX_NAMED:,} more" + (f": {commands}" if commands else ""))
    return lines


async def _resting(ledger: Ledger, route: str, since: float) -> AsyncIterator[Told]:
    after = ""
    while page := await ledger.quarantine(route, since=since, after=after, limit=PAGE):
        for row in page:
            if (state := quarantine_state(row.reason)) in UNSETTLED:
                yield state, f"{row.key}: {row.reason}: {row.message}"
        after = page[-1].key


async def _found(ledger: Ledger, pass_id: str) -> AsyncIterator[Told]:
    after = -1
    while page := await ledger.findings(pass_id, after=after):
        for finding in page:
            document = finding.document
            if document.get("action") in UNSETTLED:
                yield document["action"], f"{document['key']}: {document['reason']}: {document.get('message', '')}"
        after = page[-1].sequence
