"""Bodies of queue messages, parsed into change events by pure functions. No input raises.

An event is a hint that a key may have changed: it says where to look and never what to do, so size, ETag, version and
sequencer are not read. Every record of a message has an outcome of its own: an event, nothing to do, or quarantined
with a stable reason of `REASONS`.

Accepted: the S3 notification (`Records`, Amazon's and MinIO's names), the same in up to two SNS envelopes, the
EventBridge event of `aws.s3`, and an operator's request for one key. In an S3 notification the key is form-encoded;
elsewhere it stands as it is.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn
from urllib.parse import unquote_plus

from replication.keys import key_problem

Kind = Literal["created", "removed", "other"]
Reason = Literal[
    "too-large",
    "too-deep",
    "not-json",
    "duplicate-name",
    "unknown-envelope",
    "too-many-envelopes",
    "bad-record",
    "unsupported-major",
    "no-bucket",
    "no-key",
    "bad-key-encoding",
    "bad-key",
]

MAX_BODY_BYTES = 256 * 1024
"""S3 sends at most 64 KB; the escapes of two SNS envelopes fit into SNS's own limit, which is this."""
MAX_DEPTH = 32
MAX_UNWRAPS = 2
MAX_BUCKET_CHARS = 255

REASONS: dict[Reason, str] = {
    "too-large": f"the body has more than {MAX_BODY_BYTES} bytes",
    "too-deep": f"brackets are nested deeper than {MAX_DEPTH}",
    "not-json": "the body, or the message in its envelope, is not JSON",
    "duplicate-name": "a JSON object has the same name twice, so that readers may disagree",
    "unknown-envelope": "neither an S3 notification, nor one in SNS, nor an EventBridge event of aws.s3, nor an operator's request",
    "too-many-envelopes": f"more than {MAX_UNWRAPS} SNS envelopes around each other",
    "bad-record": "a record, or a part of it that must be an object, is something else",
    "unsupported-major": "the major version of the record's format is not one that this release reads",
    "no-bucket": "the record names no bucket",
    "no-key": "the record names no key",
    "bad-key-encoding": "the key is not form-encoded UTF-8",
    "bad-key": "no store can hold such a key",
}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
S3_MAJOR = "2"
EVENTBRIDGE_MAJOR = "1"
"""Amazon adds fields in minor versions and breaks readers only in major ones."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """`key` of `bucket` may have changed.

    `cause` is the sender's name for it, without the prefix `s3:`, for logs only. `at` is when it happened, in seconds
    since 1970, for the measured delay only; None where the sender does not tell.
    """

    bucket: str
    key: str
    kind: Kind
    cause: str
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A message that asks for nothing: `test-event`, `no-records`, `operator-malformed`, or `subscription-confirmation`,
    which an operator must answer by hand: no address that a message names is ever contacted."""

    reason: str


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """An operator asks for one key; `source` and `destination` are names of stores."""

    source: str
    destination: str
    key: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    reason: Reason


Outcome = ChangeEvent | OperatorRequest | Nothing | Quarantined


class _Refused(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def parse_sqs_body(text: str) -> list[Outcome]:
    """The outcome of each record, in order; one outcome for a body that has no records. Never raises, never empty."""
    try:
        return _outcomes(_unwrapped(text))
    except _Refused as refused:
        return [Quarantined(refused.reason)]


def load_document(text: str) -> dict[str, Any] | Quarantined:
    """One JSON object, read as strictly as every body here; or why it is none."""
    try:
        return _load(text)
    except _Refused as refused:
        return Quarantined(refused.reason)


def _unwrapped(text: str) -> dict[str, Any]:
    document = _load(text)
    for _ in range(MAX_UNWRAPS):
        if not _is_sns(document):
            return document
        document = _load(document["Message"])
    if _is_sns(document):
        raise _Refused("too-many-envelopes")
    return document


def _is_sns(document: dict[str, Any]) -> bool:
    return document.get("Type") == "Notification" and isinstance(document.get("Message"), str)


def _load(text: str) -> dict[str, Any]:
    if len(text) > MAX_BODY_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BODY_BYTES:
        raise _Refused("too-large")
    if _depth(text) > MAX_DEPTH:
        raise _Refused("too-deep")
    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _Refused("not-json") from None
    if not isinstance(document, dict):
        raise _Refused("unknown-envelope")
    return document


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside of strings: counted ahead of the parser, which recurses."""
    deepest = depth = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("duplicate-name")
    return found


def _outcomes(document: dict[str, Any]) -> list[Outcome]:
    if "Records" in document:
        records = document["Records"]
        if not isinstance(records, list):
            raise _Refused("unknown-envelope")
        return [_outcome(record) for record in records] or [Nothing("no-records")]
    if document.get("Event") == "s3:TestEvent":
        return [Nothing("test-event")]
    if document.get("source") == "aws.s3" and "detail" in document:
        return [_bridged(document)]
    if document.get("Type") == "SubscriptionConfirmation":
        return [Nothing("subscription-confirmation")]
    if "source_replica" in document or "dest_replica" in document:
        return [_requested(document)]
    raise _Refused("unknown-envelope")


def _outcome(record: Any) -> Outcome:
    try:
        return _s3_event(_object(record))
    except _Refused as refused:
        return Quarantined(refused.reason)


def _s3_event(record: dict[str, Any]) -> ChangeEvent:
    if "eventVersion" in record:
        _check_major(record["eventVersion"], S3_MAJOR)
    s3 = _object(record.get("s3"))
    bucket, encoded = _bucket(s3), _raw_key(s3)
    name = _text(record.get("eventName")).removeprefix("s3:")
    kind = _kind(name, "ObjectCreated:", "ObjectRemoved:")
    return ChangeEvent(bucket, _checked(_decoded(encoded)), kind, name, event_time(record.get("eventTime")))


def _bridged(document: dict[str, Any]) -> ChangeEvent:
    """The envelope's `version` is always "0"; `event-version`, where there is one, is the version of the detail."""
    detail = _object(document["detail"])
    if "event-version" in detail:
        _check_major(detail["event-version"], EVENTBRIDGE_MAJOR)
    name = _text(document.get("detail-type"))
    kind = _kind(name, "Object Created", "Object Deleted")
    return ChangeEvent(_bucket(detail), _checked(_raw_key(detail)), kind, name, event_time(document.get("time")))


def _requested(document: dict[str, Any]) -> OperatorRequest | Nothing:
    """What an operator got wrong is no poison: it is logged and done with."""
    source, destination, key = (document.get(name) for name in ("source_replica", "dest_replica", "key"))
    if not isinstance(source, str) or not isinstance(destination, str) or not isinstance(key, str) or key_problem(key):
        return Nothing("operator-malformed")
    return OperatorRequest(source, destination, key)


def _check_major(version: Any, major: str) -> None:
    if not isinstance(version, str) or version.split(".")[0] != major:
        raise _Refused("unsupported-major")


def _bucket(place: dict[str, Any]) -> str:
    name = _object(place.get("bucket")).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_BUCKET_CHARS:
        raise _Refused("no-bucket")
    return name


def _raw_key(place: dict[str, Any]) -> str:
    key = _object(place.get("object")).get("key")
    if not isinstance(key, str) or not key:
        raise _Refused("no-key")
    return key


def _decoded(encoded: str) -> str:
    if _STRAY_PERCENT.search(encoded):
        raise _Refused("bad-key-encoding")
    try:
        return unquote_plus(encoded, errors="strict")
    except UnicodeError:
        raise _Refused("bad-key-encoding") from None


def _checked(key: str) -> str:
    if key_problem(key):
        raise _Refused("bad-key")
    return key


def event_time(text: Any) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo else moment.replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _kind(name: str, created: str, removed: str) -> Kind:
    if name.startswith(created):
        return "created"
    return "removed" if name.startswith(removed) else "other"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Refused("bad-record")
    return value


def _text(value: Any) -> str:
    """A name that is missing or odd still means a change."""
    return value[:100] if isinstance(value, str) else ""
