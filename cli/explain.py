"""`explain ROUTE KEY`: one object as both stores show it now, what would be done about it and why, what the ledger
holds of it, its workflow, and what happens next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError

from cli.next_step import next_step
from cli.objects import WORKFLOW, read_progress
from cli.open_passes import open_passes
from cli.output import Output, moment, printable
from cli.records import records
from cli.runs import closed_result
from cli.schedules import next_passes
from cli.session import DIFFERS, DONE, UNREACHABLE, Session, check_key_argument
from ledger.common import last_common
from replication.errors import ObjectError, Refused
from replication.ids import object_workflow_id
from replication.mark import Mark, own_mark, without_mark
from replication.models import ObjectInfo
from replication.parts import plan_parts
from replication.routes import SKIP_REASONS, Route
from replication.settings import Settings
from replication.units import format_size
from stores.observe import View, observe
from stores.registry import Stores
from workflows.client import TemporalUnreachable
from workflows.search import quoted


async def run(session: Session, route_name: str, key: str) -> int:
    route = session.route(route_name)
    check_key_argument(key)
    seen, view, code = await _look(session, route, key)
    kept, recorded = await records(session, route, key, view)
    workflow, next_pass, held, reachable = await _workflow(session, route.name, key)
    told: dict[str, Any] = {"route": route.name, "key": key, **seen, **kept, "held": held, "workflow": workflow}
    told["next"] = next_step(told, next_pass)
    session.output.document(told)
    _tell(session.output, told)
    return code if reachable and recorded else UNREACHABLE


# --- the two sides ---------------------------------------------------------------------------------------------------


async def _look(session: Session, route: Route, key: str) -> tuple[dict[str, Any], View | None, int]:
    """Both sides with the decision, or why they cannot be known; what was seen; and the exit code that belongs to it."""
    if reason := route.skip_reason(key):
        return {"decision": {"action": "keep", "reason": reason, "message": SKIP_REASONS[reason]}}, None, DONE
    async with session.stores() as stores:
        try:
            view = await _view(session, route, key, stores)
            plan = await _plan(session.settings, view, stores)
        except ObjectError as error:
            unknown = {"error": {"reason": error.reason, "message": str(error), "rests": error.rests, "audience": error.audience}}
            return unknown, None, DIFFERS if isinstance(error, Refused) else UNREACHABLE
    told = {
        "source": _side(route.source.store, view.source.bucket, view.source.key, view.source_info, view.source_place),
        "replica": _side(route.destination.store, view.destination.bucket, view.destination.key, view.replica_info, view.replica_place),
        "decision": {name: getattr(view.decision, name) for name in ("action", "reason", "message")},
        "losses": list(view.mapped.losses) if view.mapped else [],
        "plan": plan,
    }
    return told, view, DONE


async def _view(session: Session, route: Route, key: str, stores: Stores) -> View:
    """As a worker sees it: where another route leads back, with what both sides last had in common."""
    back = session.settings.counterparts.get(route.name)
    if back is None:
        return await observe(route, key, stores)
    async with session.ledger() as ledger:
        return await observe(route, key, stores, paired=True, common=await last_common(ledger, route, back, key))


async def _plan(settings: Settings, view: View, stores: Stores) -> dict[str, Any] | None:
    """How the bytes would travel; None where none have to."""
    if view.decision.action != "copy" or view.source_info is None:
        return None
    location, parts = view.route.destination, view.route.settings.parts
    capabilities = await stores.capabilities(location.store, location.bucket, writable=False)
    server_side = view.source.store.identity == view.destination.store.identity and capabilities.server_side_copy
    plan = plan_parts(
        view.source_info.size_bytes,
        destination_limits=view.destination.store.limits,
        one_shot_max=parts.one_shot_max,
        part_size=parts.part_size,
        concurrency=parts.concurrency,
        streams=settings.worker.streams,
        server_side=server_side,
    )
    return {"mode": plan.mode, "server_side": server_side, "part_size": plan.part_size, "part_count": plan.part_count}


def _side(store: str, bucket: str, key: str, info: ObjectInfo | None, place: str) -> dict[str, Any]:
    where = {"store": store, "bucket": bucket, "key": key, "exists": info is not None}
    if info is None:
        return where
    mark = own_mark(info, place)
    attributes = asdict(info.attributes)
    return {
        **where,
        "size_bytes": info.size_bytes,
        "version": {**asdict(info.version), "modified": info.version.modified and info.version.modified.isoformat()},
        "checksums": {kind: _hex(kind, value) for kind, value in asdict(info.checksums).items() if value is not None},
        "attributes": {**attributes, "metadata": without_mark(info.attributes.metadata)},
        "archived": info.archived,
        "mark": _mark(mark) if mark else None,
    }


def _hex(kind: str, value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:0{16 if kind == 'crc64nvme' else 8}x}"


def _mark(mark: Mark) -> dict[str, Any]:
    return {**asdict(mark), "crc32c": None if mark.crc32c is None else f"{mark.crc32c:08x}"}


# --- the workflow ----------------------------------------------------------------------------------------------------


async def _workflow(session: Session, route: str, key: str) -> tuple[dict[str, Any], str | None, str, bool]:
    """The open run and the last closed one, when the next pass is due, what the running one holds, and whether Temporal could be
    asked."""
    workflow_id = object_workflow_id(route, key)
    try:
        client = await session.connect()
        due = [found.at for found in await next_passes(client, route) if found.mode == "repair" and found.at]
        runs = await _runs(client, workflow_id, route, key)
        return {"id": workflow_id, **runs}, moment(due[0].timestamp()) if due else None, await _held(client, route), True
    except (TemporalUnreachable, RPCError) as error:
        return {"id": workflow_id, "error": str(error)}, None, "", False


async def _held(client: Client, route: str) -> str:
    told = [await found.progress() for found in await open_passes(client, route) if found.mode == "repair"]
    return next((progress.held for progress in told if progress), "")


async def _runs(client: Client, workflow_id: str, route: str, key: str) -> dict[str, Any]:
    query = f'WorkflowType = "{WORKFLOW}" AND WorkflowId = {quoted(workflow_id)}'
    runs = [run async for run in client.list_workflows(query, limit=20)]
    runs.sort(key=lambda run: run.start_time, reverse=True)
    opened = next((run for run in runs if run.status == WorkflowExecutionStatus.RUNNING), None)
    closed = next((run for run in runs if run.status != WorkflowExecutionStatus.RUNNING), None)
    return {
        "open": await _open_run(client, opened) if opened else None,
        "last": await _closed_run(client, closed, route, key) if closed else None,
    }


async def _open_run(client: Client, run: WorkflowExecution) -> dict[str, Any]:
    told = {"run_id": run.run_id, "started": run.start_time.isoformat()}
    try:
        progress = await read_progress(client.get_workflow_handle(run.id))
    except RPCError as error:
        return {**told, "phase": None, "message": f"no worker answers: {error.message}"}
    return {**told, **progress.model_dump(mode="json", exclude={"result"})}


async def _closed_run(client: Client, run: WorkflowExecution, route: str, key: str) -> dict[str, Any]:
    result = await closed_result(client, run, route, key)
    return {
        "run_id": run.run_id,
        "started": run.start_time.isoformat(),
        "closed": run.close_time and run.close_time.isoformat(),
        "status": run.status.name.lower() if run.status else None,
        "result": result.model_dump(mode="json") if result else None,
    }


# --- for people ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lines:
    output: Output

    def add(self, name: str, text: str) -> None:
        self.output.line(f"{name:<12} {printable(text)}")


def _tell(output: Output, told: dict[str, Any]) -> None:
    lines = _Lines(output)
    lines.add("object", f"{told['key']}  (route {told['route']})")
    for name in ("source", "replica"):
        if side := told.get(name):
            lines.add(name, _side_text(side))
            _tell_attributes(lines, side)
    if error := told.get("error"):
        lines.add("unknown", f"{error['reason']}: {error['message']}  (rests in {error['rests']}; concerns the {error['audience']})")
    if decision := told.get("decision"):
        lines.add("decision", f"{decision['action']}, {decision['reason']}: {decision['message']}")
    if plan := told.get("plan"):
        lines.add("plan", _plan_text(plan))
    if losses := told.get("losses"):
        lines.add("not carried", ", ".join(losses))
    _tell_records(lines, told)
    _tell_workflow(lines, told["workflow"])
    what, at = told["next"]["what"], told["next"]["at"]
    lines.add("next", what if not at or at in what else f"{what}; {at}")


def _tell_records(lines: _Lines, told: dict[str, Any]) -> None:
    if unknown := told.get("ledger"):
        lines.add("ledger", unknown["error"])
    if receipt := told.get("receipt"):
        lines.add("receipt", f"{receipt['verification'] or 'not verified'} at {receipt['recorded_at']}{_match_text(receipt['matches'])}")
    if resting := told.get("quarantine"):
        lines.add("quarantine", f"{resting['state']} since {resting['since']}, {resting['attempts']} attempts: {resting['reason']}")
        lines.add("", f"{resting['message']}; {resting['next_step']}")
    if pending := told.get("pending_deletion"):
        lines.add("deletion", f"without a source since {pending['since']}; not before {pending['not_before']}")


def _match_text(matches: dict[str, bool] | None) -> str:
    if matches is None:
        return ""
    changed = [side for side, same in matches.items() if not same]
    return f"; since then the {' and the '.join(changed)} changed" if changed else "; both sides are still so"


def _side_text(side: dict[str, Any]) -> str:
    where = f"{side['store']}/{side['bucket']}/{side['key']}"
    if not side["exists"]:
        return f"{where}  absent"
    version = side["version"]
    told = [format_size(side["size_bytes"]), version["modified"] or "", f"etag {version['etag']}" if version["etag"] else ""]
    told += [f"version {version['id']}"] if version["id"] else []
    told += [f"{kind} {value}" for kind, value in side["checksums"].items()]
    return f"{where}  {', '.join(text for text in told if text)}"


def _tell_attributes(lines: _Lines, side: dict[str, Any]) -> None:
    attributes = side.get("attributes", {})
    shown = [f"{name} {value}" for name, value in attributes.items() if isinstance(value, str) and value]
    shown += [f"{kind} {key}={value}" for kind in ("metadata", "tags") for key, value in (attributes.get(kind) or {}).items()]
    if shown:
        lines.add("", ", ".join(shown))
    if mark := side.get("mark"):
        lines.add("", f"origin mark: route {mark['route']}, source version {mark['version']}, copy {mark['copy']}")


def _plan_text(plan: dict[str, Any]) -> str:
    how = "by the store itself" if plan["server_side"] else "streamed"
    if plan["mode"] == "object":
        return f"one request, {how}"
    return f"{plan['part_count']} parts of {format_size(plan['part_size'])}, {how}"


def _tell_workflow(lines: _Lines, workflow: dict[str, Any]) -> None:
    lines.add("workflow", workflow["id"])
    if error := workflow.get("error"):
        lines.add("", error)
    elif not workflow["open"] and not workflow["last"]:
        lines.add("", "never started, or forgotten since")
    if run := workflow.get("open"):
        phase = run["phase"] or run["message"]
        size = f", {format_size(run['bytes_done'])} of {format_size(run['size_bytes'])}" if run.get("size_bytes") else ""
        lines.add("", f"open since {run['started']}: {phase}{size}")
        for name, text in (("waiting for", run.get("waiting_for")), ("last error", run.get("last_error"))):
            if text:
                lines.add("", f"{name} {text}")
    if run := workflow.get("last"):
        result = run["result"]
        ended = f"{result['outcome']}, {result['reason']} {result['message']}".rstrip() if result else ""
        lines.add("", f"last run {run['status']} at {run['closed']}: {ended}")
