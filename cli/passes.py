"""Passes from outside: start or join one, follow it until it ends or rests, and tell what it did and found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from cli.counts import counted, examined, moved
from cli.live import with_open_partitions
from cli.output import Output, printable
from cli.session import ANSWER, DIFFERS, DONE, UNREACHABLE, Session
from cli.sync_view import View
from cli.unsettled import unsettled
from ledger.ledger import Ledger
from ledger.rows import Finding
from replication.errors import BY_REASON, LedgerUnavailable, Transient, Unavailable
from replication.ids import pass_workflow_id
from replication.passes import PassInput, PassProgress, PassResult
from replication.prices import estimate
from workflows.options import priority
from workflows.visibility import route_attributes

PassHandle = WorkflowHandle[Any, PassResult]
LOOK_S = 0.5
ENDED = {"done": DONE, "skipped": DONE}

Closing = Callable[[Ledger, PassResult], Awaitable[bool]]
"""What is done with the result of a pass once its findings are told; True where it found differences."""


async def start_pass(client: Client, queue: str, asked: PassInput) -> tuple[PassHandle, bool]:
    """Starts a pass (True), or joins the one of this mode that runs (False)."""
    workflow_id = pass_workflow_id(asked.mode, asked.route)
    try:
        handle: PassHandle = await client.start_workflow(
            "VerifyRoute" if asked.mode == "verify" else "ReconcileRoute",
            asked,
            id=workflow_id,
            task_queue=queue,
            result_type=PassResult,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            search_attributes=route_attributes(asked.route),
            static_summary=f"{asked.mode} of route {asked.route}",
            priority=priority(asked.route, bulk=True),
        )
    except WorkflowAlreadyStartedError:
        return client.get_workflow_handle(workflow_id, result_type=PassResult), False
    return handle, True


async def follow(client: Client, handle: PassHandle, show: Callable[[PassProgress], None]) -> PassResult | PassProgress:
    """The result of a pass; its progress instead as soon as it waits for an operator. `show` hears of progress on the way."""
    ending = asyncio.create_task(handle.result())
    try:
        while not (await asyncio.wait({ending}, timeout=LOOK_S))[0]:
            try:
                progress: PassProgress = await handle.query("progress", result_type=PassProgress, rpc_timeout=ANSWER)
            except RPCError:
                continue
            show(await with_open_partitions(client, progress))
            if progress.state in ("held", "paused"):
                return progress
        return ending.result()
    finally:
        if not ending.done():
            ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def run(session: Session, asked: PassInput, *, wait: bool, closing: Closing | None = None) -> int:
    """Runs `reconcile` and `verify` past their arguments. A pass that runs already is no good to `closing`."""
    client, output = await session.connect(), session.output
    handle, started = await start_pass(client, session.settings.temporal.control_queue, asked)
    if not started:
        then = "this command needs one of its own" if closing else "this command follows it" if wait else "no other is started"
        output.note(f"a pass of route {asked.route} runs already: {then}")
        if closing:
            return DIFFERS
    if not wait:
        output.line(f"{'started' if started else 'running'}  {handle.id}")
        output.document({"route": asked.route, "workflow_id": handle.id, "started": started})
        return DONE
    view = View()
    try:
        with view.shown():
            ended = await follow(client, handle, view.show if view.is_live else tells_waits(output))
    except WorkflowFailureError as error:
        return tell_failure(output, asked, error)
    if isinstance(ended, PassResult) and ended.mode == "repair":
        ended = await _with_unsettled(session, ended)
    differs = isinstance(ended, PassResult) and await _close(session, ended, closing)
    tell_end(output, ended, _cost(session, ended))
    if isinstance(ended, PassProgress):
        return DIFFERS
    differs = differs or (ended.mode == "verify" and ended.counters.differing + ended.counters.extra > 0)
    return DIFFERS if differs else ENDED.get(ended.state, DIFFERS)


def tells_waits(output: Output) -> Callable[[PassProgress], None]:
    """Tells what a pass waits for, where no live line does: once, until it goes on or waits for something else."""
    told = ""

    def show(progress: PassProgress) -> None:
        nonlocal told
        problem = (progress.problem or "a store") if progress.state == "waiting" else ""
        if problem and problem != told:
            output.note(f"the pass of route {progress.route} waits, and goes on by itself: {problem}")
        told = problem

    return show


async def _with_unsettled(session: Session, ended: PassResult) -> PassResult:
    try:
        async with session.ledger() as ledger:
            lines = await unsettled(
                ledger, ended.pass_id, ended.mode, ended.counters, lambda state: f"`report {ended.route} --state {state}`"
            )
    except LedgerUnavailable as error:
        session.output.note(f"the ledger cannot be read: {error}")
        return ended
    return ended.model_copy(update={"notes": [*ended.notes, *lines]})


async def _close(session: Session, ended: PassResult, closing: Closing | None) -> bool:
    """Tells the findings, and does what else is to be done."""
    if ended.mode == "repair":
        return False
    async with session.ledger() as ledger:
        await tell_findings(session.output, ledger, ended.pass_id)
        return closing is not None and await closing(ledger, ended)


def tell_failure(output: Output, asked: PassInput, error: WorkflowFailureError) -> int:
    cause = error.cause
    # The text of an ApplicationError begins with its type.
    reason, message = (cause.type or "defect", cause.message) if isinstance(cause, ApplicationError) else (type(cause).__name__, str(cause))
    output.note(f"the pass of route {asked.route} failed: {reason}: {message}")
    output.document({"route": asked.route, "mode": asked.mode, "state": "failed", "reason": reason, "message": message})
    kind = BY_REASON.get(reason)
    return UNREACHABLE if kind is not None and issubclass(kind, Unavailable | Transient) else DIFFERS


def _cost(session: Session, ended: PassResult | PassProgress) -> dict[str, float]:
    """What a plan would cost at the stores whose prices are configured."""
    if ended.mode != "plan":
        return {}
    route, stores = session.route(ended.route), session.settings.stores
    return estimate(ended.counters, stores[route.source.store].prices, stores[route.destination.store].prices)


def tell_end(output: Output, ended: PassResult | PassProgress, cost: Mapping[str, float]) -> None:
    """The closing line and the closing document."""
    counters = ended.counters
    seconds = ended.seconds if isinstance(ended, PassResult) else None
    dry = ended.mode == "plan"
    told = examined(counters) if ended.mode == "verify" else f"{counted(counters, dry=dry)}; {moved(counters, dry=dry)}"
    output.line(f"{ended.state}: {told}" + (f" in {seconds:.1f} s" if seconds is not None else ""))
    for note in ended.notes if isinstance(ended, PassResult) else ():
        output.line(f"  {printable(note)}")
    if cost:
        output.line("estimated cost: " + ", ".join(f"{price:.2f} at the {side}" for side, price in cost.items()))
    if isinstance(ended, PassProgress) and ended.held:
        output.line(f"held: {ended.held}; `approve {ended.route}` lets these deletions go on")
    document = {**counters.model_dump(), "failed": counters.failed + counters.blocked, "failed_alone": counters.failed}
    rest = ended.model_dump(mode="json", exclude={"counters"})
    output.document({**rest, **document, "seconds": seconds, **({"cost": dict(cost)} if cost else {})})


async def tell_findings(output: Output, ledger: Ledger, pass_id: str) -> None:
    """One line for each difference of a plan, or anomaly of a verification. Raises `LedgerUnavailable`."""
    async for finding in findings(ledger, pass_id):
        output.document(finding.document)
        output.line(_line(finding.document))


async def findings(ledger: Ledger, pass_id: str) -> AsyncIterator[Finding]:
    after = -1
    while page := await ledger.findings(pass_id, after=after):
        for finding in page:
            yield finding
        after = page[-1].sequence


def _line(document: dict[str, Any]) -> str:
    if anomaly := document.get("anomaly"):
        return printable(f"{anomaly:<22} {document['key']}  {document['message']}")
    return printable(f"{document.get('action', ''):<10} {document['key']}  {document.get('reason') or document.get('message', '')}")
