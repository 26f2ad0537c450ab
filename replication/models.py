"""The values that everything else speaks in: versions, attributes, checksums, decisions, and the payloads of workflows.

Store-level values are frozen dataclasses (what listings make by the million is a tuple, made in a fourth of the time); payloads are
frozen pydantic models whose fields are only ever added, with defaults. Nothing here does I/O, and no payload holds a secret or
object content.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

# --- what a store says about an object -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """What identifies one content of a key.

    `etag` is unquoted. `id` is the S3 versionId, the GCS generation or a file's identity; "" on an unversioned S3
    bucket. `revision` changes when only metadata does (GCS metageneration); "" where there is none.
    """

    size_bytes: int
    etag: str = ""
    id: str = ""
    revision: str = ""
    modified: datetime | None = None

    @property
    def token(self) -> str:
        """The content's identity in one string, as the origin mark carries it."""
        return self.id or f"{self.etag}-{self.size_bytes}"


@dataclass(frozen=True, slots=True)
class Checksums:
    """Full-object checksums that a store vouches for. CRCs as unsigned integers, MD5 as 32 lower-case hex digits."""

    crc32c: int | None = None
    crc64nvme: int | None = None
    crc32: int | None = None
    md5: str | None = None


NO_CHECKSUMS = Checksums()


@dataclass(frozen=True, slots=True)
class Attributes:
    """An object's settable properties. "" and {} mean not set; `tags` is None where they were not read.

    `expires` is the HTTP header's text. Metadata keys stand as the store gave them (S3: lower case), without the
    `x-amz-meta-` prefix, the origin mark's keys included.
    """

    content_type: str = ""
    content_encoding: str = ""
    content_disposition: str = ""
    content_language: str = ""
    cache_control: str = ""
    expires: str = ""
    storage_class: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a HEAD (or a commit) shows it."""

    key: str
    version: Version
    attributes: Attributes = field(default_factory=Attributes)
    checksums: Checksums = field(default_factory=Checksums)
    archived: bool = False
    """True when the bytes cannot be read before a restore."""

    @property
    def size_bytes(self) -> int:
        return self.version.size_bytes


class ListedObject(NamedTuple):
    """One object as a listing shows it: less than a HEAD does, and cheap.

    With a `problem` it has no key, and no call of the store can name it: `key` says in escaped form what stands there.
    """

    key: str
    version: Version
    checksums: Checksums = NO_CHECKSUMS
    storage_class: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold at the destination for a write to happen: `absent`, `match` a version, or `any` (no fence)."""

    kind: Literal["absent", "match", "any"] = "absent"
    version: Version | None = None

    @classmethod
    def match(cls, version: Version) -> Condition:
        return cls("match", version)


ABSENT = Condition("absent")
ANY = Condition("any")


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part of an open upload. `crc32c` is None where the listing does not tell it."""

    number: int
    size_bytes: int
    etag: str = ""
    crc32c: int | None = None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An unfinished upload as the store lists it."""

    key: str
    upload_id: str
    started: datetime


# --- what a route's rules say ----------------------------------------------------------------------------------------

Action = Literal["copy", "update", "in_sync", "delete", "keep", "wait", "block", "conflict"]
Outcome = Literal["copied", "updated", "in_sync", "deleted", "kept", "waiting", "blocked", "conflict", "failed"]
Verification = Literal["end-to-end", "dest-verified", "size-only", ""]
"""`end-to-end`: the source's own full-object checksum was compared. `dest-verified`: the destination was proved equal
to what was read. `size-only`: nothing but the length could be compared. "": no bytes moved."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one key, and why. `reason` is a stable name; `message` is for people."""

    action: Action
    reason: str
    message: str
    condition: Condition = ABSENT
    keep_beside: bool = False
    """Store what stands at the destination under another key before it is overwritten."""


# --- payloads of workflows and activities ----------------------------------------------------------------------------


class Payload(BaseModel):
    """Base of everything that enters a history: frozen, and forgiving of fields that a newer release added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CopyPlan(Payload):
    """How the bytes of one source version travel. Computed once, kept, never recomputed on a retry.

    `mode`: `object` is one request, `parts` is an upload of `part_count` parts, copied in runs of `run_length` parts.
    `copy_id` is new for each plan and stands in the origin mark, so that a lost answer to our own commit is recognised.
    `epoch` is the digest of the route's settings; activities refuse a plan of another epoch. `reason` is the decision's.
    """

    mode: Literal["object", "parts"]
    server_side: bool
    source: Version
    checksums: Checksums
    condition: Condition
    attributes: Attributes
    losses: list[str] = []
    copy_id: str
    epoch: str
    reason: str = ""
    upload_id: str = ""
    part_size: int = 0
    part_count: int = 0
    run_length: int = 1
    runs_in_flight: int = 1

    @property
    def run_count(self) -> int:
        return -(-self.part_count // self.run_length) if self.part_count else 0


class ReplicateObjectState(Payload):
    """What `ReplicateObject` carries across continue-as-new: the plan, finished runs, and what was counted so far."""

    plan: CopyPlan | None = None
    runs: dict[int, PartRunResult] = {}
    """Finished runs by index, from 0."""
    bytes_copied: int = 0
    churns: int = 0
    fences: int = 0
    restarts: int = 0
    dirty: bool = False
    paused: bool = False
    copied: ReplicateObjectResult | None = None
    manifest: ManifestState | None = None
    absent_since: float | None = None
    waiters: list[str] = []
    """Workflows that wait for this object, until `waiters_until`, in seconds since 1970."""
    waiters_until: float = 0.0


class ReplicateObjectInput(Payload):
    """Input of the workflow `ReplicateObject`: `key` is the full object name in the route's source bucket."""

    route: str
    key: str
    cause: str = "request"
    changed_at: float | None = None
    """When the object changed, in seconds since 1970, as far as an event told. For the measured delay only."""
    paced_by: str = ""
    """The workflow of the pass whose limits its bytes count against."""
    state: ReplicateObjectState | None = None


class ReplicateObjectResult(Payload):
    """How one look at a key ended; until there is a ledger, the receipt. At most 50 losses."""

    route: str
    key: str
    outcome: Outcome
    reason: str
    message: str = ""
    bytes_copied: int = 0
    size_bytes: int = 0
    verification: Verification = ""
    crc32c: int | None = None
    source_version: str = ""
    destination_key: str = ""
    destination_version: str = ""
    source_listed: str = ""
    """What listings show of these versions (`replication/compare.py`)."""
    destination_listed: str = ""
    losses: list[str] = []
    seconds: float = 0.0


class QuarantineInput(Payload):
    """Input of `quarantine_object`: why an object rests, and in which of the two states."""

    route: str
    key: str
    rests: Literal["failed", "blocked"]
    reason: str
    message: str = ""


class Waiting(Payload):
    """What a manifest of source version `version` waits for: `missing_count` of its `total` references.

    `missing` is the code of their numbers (`replication/manifests/found.py`), `first` are the first keys, at most 20, and
    `awaited` those of them whose workflows were asked to say when they stand.
    """

    version: str
    total: int
    missing_count: int
    missing: str
    first: list[str]
    awaited: list[str] = []
    poll_s: float = 8.0
    poll_max_s: float = 60.0
    deadline_s: float = 7200.0


class ManifestState(Payload):
    """A manifest's wait across continue-as-new. `since` is seconds since 1970."""

    waiting: Waiting
    since: float
    polls: int
    woken: list[str] = []


class Pause(Payload):
    """Why a deletion does not happen yet, and after how long to look again: `deletion-hold` ends by itself, and what
    waits for an operator (`held`) is looked at on a signal too."""

    phase: Literal["waiting", "held"]
    reason: str
    message: str
    seconds: float


class SettleInput(Payload):
    """Input of `settle_object`: look at both sides, decide, and finish whatever one small step can finish.

    `waiting` is what the last look found missing, and `woken` the keys among it that stand since, as far as they told.
    `absent_for_s` is how long the source has been seen to be gone.
    """

    route: str
    key: str
    cause: str = "request"
    changed_at: float | None = None
    waiting: Waiting | None = None
    woken: list[str] = []
    absent_for_s: float = 0.0


class Settlement(Payload):
    """A finished `result`, the `plan` of a copy that other activities carry out, what a manifest is `waiting` for, or the
    `pause` before a deletion (exactly one is set).

    `dirty` says that the source changed while a small copy ran, so that one more look is due.
    """

    result: ReplicateObjectResult | None = None
    plan: CopyPlan | None = None
    waiting: Waiting | None = None
    pause: Pause | None = None
    dirty: bool = False


class CopyObjectInput(Payload):
    route: str
    key: str
    plan: CopyPlan
    changed_at: float | None = None
    paced_by: str = ""


class PartRunInput(Payload):
    """Input of `copy_part_run`: parts `first`..`last`, 1-based and inclusive, of an open upload."""

    route: str
    key: str
    plan: CopyPlan
    first: int
    last: int
    paced_by: str = ""


class PartRunResult(Payload):
    """`crc32c` covers the run's bytes in order; `companion` is the CRC of the kind that `companion_kind` names.

    `bytes_copied` counts what was really sent: less than the run after a resume.
    """

    crc32c: int | None
    companion: int | None = None
    bytes_copied: int
    resumed_parts: int = 0


class CompleteInput(Payload):
    route: str
    key: str
    plan: CopyPlan
    run_crc32c: list[int | None]
    """CRC32C of each run's bytes, in order; None where a server-side copy told none."""
    run_companion: list[int | None] = []
    bytes_copied: int = 0
    changed_at: float | None = None


class AbortInput(Payload):
    route: str
    key: str
    plan: CopyPlan


class Progress(Payload):
    """Answer of the `progress` query. `phase` is one of `workflows.visibility.PHASES`."""

    phase: str
    size_bytes: int = 0
    bytes_done: int = 0
    parts_done: int = 0
    parts_total: int = 0
    upload_id: str = ""
    waiting_for: str = ""
    last_error: str = ""
    paused: bool = False
    result: ReplicateObjectResult | None = None


class HousekeepingInput(Payload):
    """Sweep unfinished uploads and temporary parts older than `older_than_s` that no open workflow owns.

    `route` is set by the workflow, which sweeps one route after the other.
    """

    older_than_s: float = 86_400.0
    dry_run: bool = False
    route: str = ""


class HousekeepingResult(Payload):
    """Counts of a sweep; `kept` were young, owned by an open workflow, or not known to be ours. At most 20 problems."""

    found: int = 0
    aborted: int = 0
    kept: int = 0
    failed: int = 0
    problems: list[str] = []

    def plus(self, other: HousekeepingResult) -> HousekeepingResult:
        return HousekeepingResult(
            found=self.found + other.found,
            aborted=self.aborted + other.aborted,
            kept=self.kept + other.kept,
            failed=self.failed + other.failed,
            problems=[*self.problems, *other.problems][:20],
        )


ReplicateObjectState.model_rebuild()
