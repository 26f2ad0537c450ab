"""Passes over a route: what one is asked to do, what it counts, how it is steered, and the payloads between its workflows.

A pass compares every key of both sides and of the ledger. In mode `repair` it copies what is missing or differs, `plan`
tells what it would do, `verify` tells what is wrong; the last two write nothing at any store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from replication.deletions import FREE
from replication.globs import compile_globs
from replication.models import ListedObject, Payload, ReplicateObjectResult
from replication.route_settings import DeletesSettings

Mode = Literal["repair", "plan", "verify"]
PassPhase = Literal["objects", "manifests", "deletions"]
"""In this order: data before what may name it, deletions when every key of both sides was listed without a gap."""
PassState = Literal["running", "paused", "held", "waiting", "done", "incomplete", "cancelled", "failed", "skipped"]
PASS_STATES: dict[PassState, str] = {
    "running": "comparing and repairing",
    "paused": "held by an operator's `pause`",
    "held": "its deletions wait for an operator's `approve`",
    "waiting": "a store, the network or the ledger must heal first; tried again by itself",
    "done": "every key was looked at",
    "incomplete": "every key was looked at, and some objects could not be settled",
    "cancelled": "stopped by a request; run again, it does only the rest",
    "failed": "it could not go on; the reason says why",
    "skipped": "another pass of the route was running",
}


class Filters(Payload):
    """Which keys a pass looks at, on both sides alike. Empty means every key of the route.

    `prefix` and the globs are of the key below the route's prefix; sizes in bytes, both ends included; times in seconds since
    1970, of the source object; `storage_classes` of the source object; keys up to `start_after` (full source keys) are left out.
    """

    prefix: str = ""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    min_size: int | None = None
    max_size: int | None = None
    modified_after: float | None = None
    modified_before: float | None = None
    storage_classes: list[str] = Field(default_factory=list)
    start_after: str = ""
    since: float | None = None
    """Objects that changed after it on either side, as far as their times tell."""

    def admits(self, source: ListedObject) -> bool:
        """Whether an object of the source, as its listing shows it, is asked for. Key patterns are matched elsewhere."""
        if source.problem and source.key.endswith("/"):
            return True  # a directory: its own size and time say nothing of what it holds
        version = source.version
        if self.min_size is not None and version.size_bytes < self.min_size:
            return False
        if self.max_size is not None and version.size_bytes > self.max_size:
            return False
        if self.storage_classes and (source.storage_class or "STANDARD") not in self.storage_classes:
            return False
        return self._admits_time(version.modified)

    def admits_change(self, source: ListedObject | None, replica: ListedObject | None) -> bool:
        """Whether one of the two was modified after `since`. A time that a store does not tell counts as now."""
        if self.since is None:
            return True
        times = [listed.version.modified for listed in (source, replica) if listed is not None]
        return any(at is None or at.timestamp() > self.since for at in times)

    def _admits_time(self, modified: datetime | None) -> bool:
        if self.modified_after is None and self.modified_before is None:
            return True
        if modified is None:
            return False
        at = modified.timestamp()
        return (self.modified_after is None or at > self.modified_after) and (self.modified_before is None or at < self.modified_before)

    def covers(self, below: str) -> bool:
        """Whether an object is asked for as far as its key, below the route's prefix, tells; `start_after` is looked at elsewhere."""
        include, exclude = compile_globs(tuple(self.include)), compile_globs(tuple(self.exclude))
        if not below.startswith(self.prefix) or (exclude is not None and exclude.fullmatch(below)):
            return False
        return include is None or include.fullmatch(below) is not None

    @property
    def by_object(self) -> bool:
        """Whether a key is left out for what its source object is, so that a replica without one proves nothing."""
        bounds = (self.min_size, self.max_size, self.modified_after, self.modified_before)
        return bool(self.storage_classes) or any(bound is not None for bound in bounds)


class Counters(Payload):
    """What a pass did, or in mode `plan` would do. Objects, except for `bytes_…` and `requests`.

    `listed` are source objects, `replicas` destination objects. Every one of `listed` is in exactly one of `skipped` (right
    already), `kept` (left alone by policy), `copied`, `updated`, `waiting` (archive, manifest, or a store that must heal),
    `blocked`, `failed`, `differing` (mode `verify`), or among `extra` if it went while the pass ran. `extra` are replicas without a
    source, `deleted` those of them that went.
    """

    listed: int = 0
    replicas: int = 0
    skipped: int = 0
    kept: int = 0
    copied: int = 0
    updated: int = 0
    waiting: int = 0
    blocked: int = 0
    failed: int = 0
    differing: int = 0
    extra: int = 0
    deleted: int = 0
    bytes_listed: int = 0
    bytes_copied: int = 0
    requests: int = 0

    @property
    def left(self) -> int:
        """Objects without a source that stand at the destination still: nobody asked for their deletion, or they are not ours."""
        return max(0, self.extra - self.deleted)

    def plus(self, other: Counters) -> Counters:
        return Counters.model_construct(**{name: getattr(self, name) + getattr(other, name) for name in Counters.model_fields})


class Steering(Payload):
    """How fast a pass may go: objects at once (None: the worker's own limit), bytes and requests a second over all workers."""

    paused: bool = False
    concurrency: int | None = None
    bytes_per_s: float | None = None
    requests_per_s: float | None = None


class LimitUpdate(Payload):
    """Which limits of a running pass change; a field that is not set stays as it is, 0 lifts a limit."""

    concurrency: int | None = Field(default=None, ge=0)
    bytes_per_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    requests_per_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    def applied(self, steering: Steering) -> Steering:
        changed = {name: value or None for name, value in self.model_dump().items() if value is not None}
        return steering.model_copy(update=changed)


class PassProgress(Payload):
    """Answer of the `progress` query. `held` says what an operator would approve; `problem` what it waits for."""

    route: str
    mode: Mode = "repair"
    pass_id: str = ""
    state: PassState = "running"
    counters: Counters = Counters()
    partitions_done: int = 0
    partitions_open: int = 0
    open_partitions: list[int] = Field(default_factory=list)
    started_at: float = 0.0
    steering: Steering = Steering()
    held: str = ""
    problem: str = ""

    @property
    def standing(self) -> PassState:
        """The state of a pass that has not ended."""
        if self.steering.paused:
            return "paused"
        if self.held:
            return "held"
        return "waiting" if self.problem else "running"


class KeyRange(Payload):
    """Keys below the route's prefix, greater than `after` and up to `up_to`, that one included; "" for no bound."""

    after: str = ""
    up_to: str = ""


class Begun(Payload):
    """What the workflow of a pass has to know of its route."""

    manifests: bool = False
    mirror: bool = False
    keys: KeyRange = KeyRange()
    """What the filters leave of the key space."""
    since: float | None = None
    """When the last finished verification began, less a margin for clocks, where the pass asked for it."""


class PassSoFar(Payload):
    """What one run of a pass hands to the next: no partition is open then. `begun` is None where it could not begin yet, `ranges` are
    those of the phase that nobody has looked at yet, `deleted_up_to` the last key whose deletion was looked at, `weighed` whether so
    many deletions are let through."""

    progress: PassProgress
    begun: Begun | None = None
    phase: PassPhase = "objects"
    ranges: list[KeyRange] = Field(default_factory=list)
    partitions: int = 0
    approved: bool = False
    weighed: bool = False
    deleted_up_to: str = ""


class PassInput(Payload):
    """Input of `ReconcileRoute` and `VerifyRoute`. `cause` is `request` or `schedule`."""

    route: str
    mode: Mode = "repair"
    filters: Filters = Filters()
    cause: str = "request"
    deep: bool = False
    """Mode `verify`: read every byte of both sides."""
    certificate: bool = False
    """Mode `verify`: keep what a certificate is made of, until it is dropped or another pass of the route does so."""
    since_last: bool = False
    """Mode `verify`: only what changed since the last finished verification of the whole route began, if there was one."""
    limits: LimitUpdate = LimitUpdate()
    stretch: int = 50_000
    """Keys that one scan looks at before its partition counts them and may share what is left."""
    so_far: PassSoFar | None = None


class PassResult(Payload):
    """How a pass ended."""

    route: str
    mode: Mode = "repair"
    pass_id: str = ""
    state: PassState = "done"
    reason: str = ""
    counters: Counters = Counters()
    seconds: float = 0.0
    partitions: int = 0
    notes: list[str] = Field(default_factory=list)


# --- between the workflows and activities of a pass ------------------------------------------------------------------


class ScanInput(Payload):
    """One stretch of a range: at most `max_keys` keys are looked at. Manifests are left out in phase `objects`, and are
    all there is in phase `manifests`. `number` tells apart the partitions of a pass."""

    route: str
    pass_id: str
    mode: Mode = "repair"
    phase: PassPhase = "objects"
    filters: Filters = Filters()
    deep: bool = False
    certificate: bool = False
    keys: KeyRange = KeyRange()
    number: int = 0
    found: int = 0
    """Differences told so far in this partition."""
    max_keys: int = 100_000
    quick_s: float = 0.0
    """Beyond `max_keys` it goes on until it has taken so long."""


class ScanResult(Payload):
    """What a stretch did. Everything up to `cursor` is done and recorded, but for the keys in `large`, which need a workflow
    each; `ended` where the range has nothing behind it. At most 100 KiB of keys, or 200."""

    cursor: str = ""
    ended: bool = False
    counters: Counters = Counters()
    large: list[str] = Field(default_factory=list)
    parked: list[str] = Field(default_factory=list)
    """Keys that wait for an archive, in workflows that the pass does not wait for."""
    found: int = 0
    rested: bool = False
    """It ended early, because nothing might begin."""


class PartitionOrders(Payload):
    """How a partition may begin workflows: none while `paused`, so many of large objects at once, None for no limit of the
    pass. Its scans ask the pass by themselves."""

    paused: bool = False
    objects_at_once: int | None = None


class PartitionInput(Payload):
    """Input of `ReconcilePartition`: a range of a pass; `done` is what runs before this one counted."""

    scan: ScanInput
    done: Counters = Counters()
    shares_at_once: bool = False
    """Leave what is behind the first stretch to others."""
    orders: PartitionOrders = PartitionOrders()


class PartitionResult(Payload):
    """How a partition ended. `rest` is what it leaves to others, where it was asked to share; `problem` why it failed."""

    counters: Counters = Counters()
    rest: KeyRange | None = None
    problem: str = ""
    reason: str = ""


class SplitInput(Payload):
    route: str
    prefix: str = ""
    keys: KeyRange = KeyRange()
    pieces: int = 8


class BeginPassInput(Payload):
    """Input of `begin_pass`: records that a pass runs. `started_at` in seconds since 1970; `whole` for one that no filter
    keeps from any key."""

    route: str
    pass_id: str
    mode: Mode
    started_at: float
    start_after: str = ""
    whole: bool = False
    since_last: bool = False


class EndPassInput(Payload):
    """Input of `end_pass`."""

    route: str
    pass_id: str
    state: PassState
    reason: str = ""
    counters: Counters = Counters()


class WeighInput(Payload):
    """Input of `weigh_deletions`."""

    route: str
    pass_id: str
    filters: Filters = Filters()
    counters: Counters = Counters()


class ExtraInput(Payload):
    """Input of `delete_extra`: the replicas that this pass found without a source, after `after`."""

    route: str
    pass_id: str
    approved: bool = False
    after: str = ""


class ExtraResult(Payload):
    """What became of those looked at; `waiting` have not been gone for the route's `hold` yet, and `held` says why some wait
    for an operator. `ended`: none is left behind `cursor`, which has not moved where the page is to be looked at again."""

    cursor: str = ""
    ended: bool = False
    deleted: int = 0
    kept: int = 0
    failed: int = 0
    waiting: int = 0
    held: str = ""


class SteeringShare(Payload):
    """Answer of the `steering` query: the limits of the whole pass, and the open partitions, which share its objects at once."""

    steering: Steering = Steering()
    partitions: list[int] = Field(default_factory=list)


def objects_at_once(concurrency: int | None, partition: int, partitions: Sequence[int]) -> int | None:
    """A partition's share of a pass's objects at once, None without a limit. The shares of all `partitions` add up to the
    limit, so that some may be 0 until others have ended."""
    if concurrency is None:
        return None
    sharing = sorted({*partitions, partition})
    each, over = divmod(concurrency, len(sharing))
    return each + (sharing.index(partition) < over)


def held_reason(extra: int, counters: Counters, deletes: DeletesSettings) -> str:
    """Why so many deletions of one pass are not made without an operator; "" where they may be."""
    if not extra:
        return ""
    if not counters.listed:
        return f"the source lists no object at all, and {extra} replicas would go"
    if extra > deletes.max_objects:
        return f"{extra} deletions, more than {deletes.max_objects}"
    if extra > FREE and extra * 100 > deletes.max_percent * counters.replicas:
        return f"{extra} of {counters.replicas} replicas would go, more than {deletes.max_percent:g} %"
    return ""


COUNTED = {"in_sync": "skipped"} | {name: name for name in ("copied", "updated", "kept", "waiting", "failed", "deleted")}
"""Which counter an object's outcome moves; every other one is `blocked`."""


def count_outcome(counters: Counters, result: ReplicateObjectResult | None) -> Counters:
    """The counters with one more object; None for one that was still open when the pass went on."""
    if result is None:
        return counters.plus(Counters(waiting=1))
    counted = {COUNTED.get(result.outcome, "blocked"): 1, "bytes_copied": arrived_bytes(result)}
    if result.outcome == "deleted":  # it went after it was listed
        counted["extra"] = 1
    return counters.plus(Counters(**counted))


def arrived_bytes(result: ReplicateObjectResult) -> int:
    """The bytes that a settled object added to the destination, whoever moved them: a store may copy by itself."""
    return result.size_bytes if result.outcome == "copied" else 0
