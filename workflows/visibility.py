"""What an operator sees in the Web UI and can search for: attributes, phases, summaries, and Markdown details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, SearchAttributeUpdate, TypedSearchAttributes

with workflow.unsafe.imports_passed_through():
    from replication.deletions import DeletionsProgress, Limits
    from replication.models import Progress
    from replication.passes import PASS_STATES, Counters, PassProgress, PassState, ScanInput
    from replication.units import format_size

ROUTE = SearchAttributeKey.for_keyword("DrayageRoute")
KEY = SearchAttributeKey.for_keyword("DrayageKey")
PHASE = SearchAttributeKey.for_keyword("DrayagePhase")

SEARCH_ATTRIBUTES: dict[str, str] = {
    ROUTE.name: "the route's name",
    KEY.name: "the object's key in the source bucket, cut to 255 characters",
    PHASE.name: "where the workflow is or how it ended; not set while one look is enough",
}

PHASES: dict[str, str] = {
    "settling": "looking at both sides and deciding; a small object is copied in the same step",
    "copying": "bytes are on their way: one request, or the part runs of an upload",
    "completing": "the upload is being published and verified",
    "waiting": "the store, the network, the clock, the disk or an archive must heal first; tried again by itself",
    "stalled": "a manifest has waited past its deadline for what it names; looked for on, and it goes on by itself",
    "awaited": "not at its source, and manifests wait for it",
    "held": "too many deletions of the route at once: they wait for an operator's `approve`",
    "churning": "the source changes faster than it can be copied; tried again after a pause",
    "paused": "held by an operator's `pause`",
    "done": "settled",
    "kept": "left as it is, by policy",
    "conflict": "the destination keeps changing, or holds something that the policy protects",
    "blocked": "somebody must act: permission, configuration, key, metadata or size",
    "failed": "retries are spent",
}


def object_attributes(route: str, key: str) -> TypedSearchAttributes:
    """The search attributes of an object workflow at its start."""
    return TypedSearchAttributes([SearchAttributePair(ROUTE, route), SearchAttributePair(KEY, key[:255])])


def route_attributes(route: str) -> TypedSearchAttributes:
    """The search attributes of a workflow that concerns a whole route."""
    return TypedSearchAttributes([SearchAttributePair(ROUTE, route)])


def missing_attributes(route: str, key: str, present: TypedSearchAttributes) -> Sequence[SearchAttributeUpdate[Any]]:
    """What a workflow that was started without search attributes (from the Temporal CLI) sets itself."""
    return [] if present.get(ROUTE) is not None else [ROUTE.value_set(route), KEY.value_set(key[:255])]


def object_summary(route: str, key: str) -> str:
    """One line for the list of workflows: at most 200 bytes, printable."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in f"{route}: {key}")
    return text.encode()[:200].decode(errors="ignore")


def _fenced(text: str) -> str:
    """Untrusted text that Markdown shows as it is."""
    return "`" + text.replace("`", "'").replace("\n", " ").replace("\r", " ")[:1000] + "`"


def deletions_details(progress: DeletionsProgress, limits: Limits) -> str:
    """Markdown for the Web UI: what was deleted lately, and what is held."""
    of = "" if progress.peak is None else f" (at most {progress.peak:,} replicas were counted)"
    lines = [
        f"{progress.granted:,} deletions{of} of route {_fenced(progress.route)} within {limits.window_s:g} s",
        f"- more than {limits.max_objects:,}, or {limits.max_percent:g} %, wait for an operator",
    ]
    if hold := progress.hold:
        lines[:0] = [f"**held** — {PHASES['held']}", ""]
        lines.append(f"- held: {hold.count:,} requests, because of {_fenced(hold.reason)}")
        lines += [f"  - {_fenced(key)}" for key in hold.first]
    return "\n".join(lines)


def pass_details(progress: PassProgress) -> str:
    """Markdown for the Web UI: how far a pass is, what it did, what it waits for."""
    counters, steering = progress.counters, progress.steering
    lines = [
        f"**{progress.state}** — {PASS_STATES[progress.state]}",
        "",
        f"- {progress.mode} of route {_fenced(progress.route)}: {counters.listed:,} objects, {format_size(counters.bytes_listed)}",
        f"- {counters.skipped:,} right already, {counters.updated:,} updated",
        f"- {counters.copied:,} copied, {format_size(counters.bytes_copied)}",
        f"- {counters.failed:,} failed, {counters.blocked:,} blocked, {counters.waiting:,} waiting, {counters.kept:,} kept",
        f"- {counters.extra:,} replicas without a source, {counters.deleted:,} deleted",
        f"- {progress.partitions_done} partitions done, {progress.partitions_open} open",
    ]
    if progress.mode == "verify":
        lines.append(f"- {counters.differing:,} with anomalies")
    limits = {"objects at once": steering.concurrency, "bytes/s": steering.bytes_per_s, "requests/s": steering.requests_per_s}
    lines += [f"- at most {limit:g} {name}" for name, limit in limits.items() if limit]
    for name, text in (("held", progress.held), ("problem", progress.problem)):
        if text:
            lines.append(f"- {name}: {_fenced(text)}")
    return "\n".join(lines)


def partition_progress(scan: ScanInput, counters: Counters, problem: str) -> PassProgress:
    """A partition's part of the progress of its pass."""
    state: PassState = "waiting" if problem else "running"
    return PassProgress(route=scan.route, mode=scan.mode, pass_id=scan.pass_id, state=state, counters=counters, problem=problem)


def object_details(route: str, key: str, progress: Progress) -> str:
    """Markdown for the Web UI: which object, how far, what it waits for, why it failed."""
    lines = [f"**{progress.phase}** — {PHASES[progress.phase]}", "", f"- object {_fenced(key)} of route {_fenced(route)}"]
    if progress.size_bytes:
        share = 100 * progress.bytes_done // progress.size_bytes
        lines.append(f"- {format_size(progress.bytes_done)} of {format_size(progress.size_bytes)} ({share} %)")
    if progress.parts_total:
        lines.append(f"- {progress.parts_done} of {progress.parts_total} parts stored")
    if progress.waiting_for:
        lines.append(f"- waiting for {_fenced(progress.waiting_for)}")
    if progress.last_error:
        lines.append(f"- last error {_fenced(progress.last_error)}")
    if result := progress.result:
        lines.append(f"- {result.outcome}: {_fenced(result.reason)} {_fenced(result.message) if result.message else ''}")
        if result.verification:
            lines.append(f"- verified {result.verification}; {format_size(result.bytes_copied)} sent")
        if result.losses:
            lines.append(f"- not carried: {_fenced(', '.join(result.losses))}")
    return "\n".join(lines)
