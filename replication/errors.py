"""Every way an object can fail, as one closed tree.

    DrayageError
    ├── SettingsError            the configuration is wrong: exit code 2, nothing was contacted
    ├── UsageError               a command's argument is wrong: exit code 2, nothing was contacted
    ├── CertificateBroken        a certificate is damaged: it proves nothing
    └── ObjectError              one object cannot be settled now
        ├── ObjectNotFound           answered to the decision, not a failure by itself
        ├── PreconditionFailed       a fence held: look again and decide again
        ├── SourceChanged            the pinned source version is gone: look again
        ├── UploadLost               the store forgot the multipart upload: begin another
        ├── UploadCorrupt            the stored parts together are not the source's bytes: begin another
        ├── RouteChanged             the route was edited meanwhile: look again
        ├── Transient                rests in `failed` when its retries are spent
        │   ├── ServerFault              5xx, a broken answer, a reset connection
        │   ├── StoreTimeout             no answer in time (its own retry schedule)
        │   └── IntegrityMismatch        size or checksum differ: never committed
        ├── Unavailable              rests in `waiting`, tried again by itself for ever, slowly
        │   ├── EndpointUnreachable      DNS, refused, TLS
        │   ├── Throttled                429, SlowDown
        │   ├── OverBudget               the store's limits in the configuration: its turn comes, and it is told when
        │   ├── ClockSkewed              this machine's clock is off by more than 15 minutes
        │   ├── NoSpace                  ENOSPC, EDQUOT
        │   ├── SourceArchived           the object must be restored first
        │   └── LedgerUnavailable        the database of the receipts does not answer
        └── Refused                  rests in `blocked`, never retried by itself
            ├── PermissionRefused        403, EACCES
            ├── CredentialsRefused       unknown, expired or wrong credentials
            ├── BucketNotFound
            ├── DestinationReadOnly      EROFS
            ├── KeyUnrepresentable       the destination cannot hold this key
            ├── KeyCollision             another object of the destination stands in the way
            ├── KeyInvalid               no store can hold this key
            ├── ObjectTooLarge
            ├── MetadataUnrepresentable
            ├── DestinationForeign       the replica belongs to another route
            ├── InvalidManifest          its content does not name its dependencies as the route's rules say
            ├── UnknownKind              the route orders manifests, and no rule says what this key is
            ├── UnsatisfiableDependency  a dependency that this route never replicates
            ├── DependencyCycle          manifests that wait for each other
            ├── NotSupported             the store lacks an ability that this route needs
            └── RouteUnknown             no such route in the worker's configuration

`reason` is the stable name that operators see in states, metrics and search; the classes differ by what happens next,
not by their text, and no message is ever inspected.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Retry = Literal["error", "timeout", "turn", "never"]
Rest = Literal["failed", "blocked", "waiting", "again"]
Audience = Literal["operator", "source owner", "destination owner", "nobody"]


class DrayageError(Exception):
    """Base of everything this product raises on purpose."""


class SettingsError(DrayageError):
    """The configuration is wrong. Holds every problem found, one line each, starting with the path of the field."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(DrayageError):
    """A command line argument is wrong; the message names it."""


class CertificateBroken(DrayageError):
    """A certificate is not as it was written; the message says in one line what is wrong."""


class ObjectError(DrayageError):
    """One object cannot be settled now.

    `retry` chooses the schedule in `replication/retries.py`; `rests` is the state once that is spent ("again" means
    that the workflow looks at both sides anew); `audience` is who can change it. The message may hold whatever a store told:
    what is no Unicode text (JSON can spell halves of characters) stands in it as `?`, since no history could keep it.
    """

    reason: ClassVar[str] = "object-error"
    retry: ClassVar[Retry] = "never"
    rests: ClassVar[Rest] = "failed"
    audience: ClassVar[Audience] = "operator"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message.encode(errors="replace").decode())
        self.retry_after_s = retry_after_s


class ObjectNotFound(ObjectError):
    reason = "object-not-found"
    audience: ClassVar[Audience] = "nobody"


class PreconditionFailed(ObjectError):
    reason = "precondition-failed"
    rests: ClassVar[Rest] = "again"
    audience: ClassVar[Audience] = "nobody"


class SourceChanged(ObjectError):
    reason = "source-changed"
    rests: ClassVar[Rest] = "again"
    audience: ClassVar[Audience] = "nobody"


class UploadLost(ObjectError):
    reason = "upload-lost"
    rests: ClassVar[Rest] = "again"
    audience: ClassVar[Audience] = "nobody"


class UploadCorrupt(ObjectError):
    reason = "upload-corrupt"
    rests: ClassVar[Rest] = "again"
    audience: ClassVar[Audience] = "source owner"


class RouteChanged(ObjectError):
    reason = "route-changed"
    rests: ClassVar[Rest] = "again"
    audience: ClassVar[Audience] = "nobody"


class Transient(ObjectError):
    reason = "transient"
    retry: ClassVar[Retry] = "error"


class ServerFault(Transient):
    reason = "server-fault"


class StoreTimeout(Transient):
    reason = "store-timeout"
    retry: ClassVar[Retry] = "timeout"


class IntegrityMismatch(Transient):
    reason = "integrity-mismatch"
    audience: ClassVar[Audience] = "source owner"


class Unavailable(ObjectError):
    reason = "unavailable"
    retry: ClassVar[Retry] = "error"
    rests: ClassVar[Rest] = "waiting"


class EndpointUnreachable(Unavailable):
    reason = "endpoint-unreachable"


class Throttled(Unavailable):
    reason = "throttled"


class OverBudget(Unavailable):
    reason = "over-budget"
    retry: ClassVar[Retry] = "turn"


class ClockSkewed(Unavailable):
    reason = "clock-skewed"
    retry: ClassVar[Retry] = "never"


class NoSpace(Unavailable):
    reason = "no-space"
    retry: ClassVar[Retry] = "never"
    audience: ClassVar[Audience] = "destination owner"


class SourceArchived(Unavailable):
    reason = "source-archived"
    retry: ClassVar[Retry] = "never"
    audience: ClassVar[Audience] = "source owner"


class LedgerUnavailable(Unavailable):
    reason = "ledger-unavailable"


class Refused(ObjectError):
    reason = "refused"
    rests: ClassVar[Rest] = "blocked"


class PermissionRefused(Refused):
    reason = "permission-refused"


class CredentialsRefused(Refused):
    reason = "credentials-refused"


class BucketNotFound(Refused):
    reason = "bucket-not-found"


class DestinationReadOnly(Refused):
    reason = "destination-read-only"
    audience: ClassVar[Audience] = "destination owner"


class KeyUnrepresentable(Refused):
    reason = "key-unrepresentable"
    audience: ClassVar[Audience] = "source owner"


class KeyCollision(Refused):
    reason = "key-collision"
    audience: ClassVar[Audience] = "source owner"


class KeyInvalid(Refused):
    reason = "key-invalid"
    audience: ClassVar[Audience] = "source owner"


class ObjectTooLarge(Refused):
    reason = "object-too-large"
    audience: ClassVar[Audience] = "source owner"


class MetadataUnrepresentable(Refused):
    reason = "metadata-unrepresentable"
    audience: ClassVar[Audience] = "source owner"


class DestinationForeign(Refused):
    reason = "destination-foreign"
    audience: ClassVar[Audience] = "destination owner"


class InvalidManifest(Refused):
    reason = "invalid-manifest"
    audience: ClassVar[Audience] = "source owner"


class UnknownKind(Refused):
    reason = "unknown-kind"


class UnsatisfiableDependency(Refused):
    reason = "unsatisfiable-dependency"


class DependencyCycle(Refused):
    reason = "dependency-cycle"
    audience: ClassVar[Audience] = "source owner"


class NotSupported(Refused):
    reason = "not-supported"


class RouteUnknown(Refused):
    reason = "route-unknown"


def _leaves(root: type[ObjectError]) -> dict[str, type[ObjectError]]:
    found = {root.reason: root}
    for child in root.__subclasses__():
        found.update(_leaves(child))
    return found


BY_REASON: dict[str, type[ObjectError]] = _leaves(ObjectError)
"""Every class of the tree by its `reason`, collected from the classes themselves."""
