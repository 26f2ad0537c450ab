"""GCS notifications as Pub/Sub delivers them, parsed into change events by pure functions. No input raises.

A notification says everything that matters in its attributes, so its body, which may be empty, is not read. Names stand as
they are: `objectId` is never decoded. Every kind of event means the same: look at the object. An overwrite sends a deletion
of the old generation too, and may send it first.

Older functions forward the resource itself as the body, without attributes (`object.change`).
https://cloud.google.com/storage/docs/pubsub-notifications
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingest.events import MAX_BUCKET_CHARS, ChangeEvent, Kind, Outcome, Quarantined, Reason, event_time, load_document
from replication.keys import key_problem

_KINDS: dict[str, Kind] = {"OBJECT_FINALIZE": "created", "OBJECT_DELETE": "removed", "OBJECT_ARCHIVE": "removed"}


def parse_pubsub(attributes: Mapping[str, str], data: bytes) -> list[Outcome]:
    """The one outcome of a message."""
    if "bucketId" in attributes or "objectId" in attributes:
        cause = attributes.get("eventType", "")
        at = event_time(attributes.get("eventTime"))
        return [_outcome(attributes.get("bucketId"), attributes.get("objectId"), _KINDS.get(cause, "other"), cause, at)]
    return [_resource(data)]


def _resource(data: bytes) -> Outcome:
    """An object's resource: `bucket`, `name`, and `resourceState` `exists` or `not_exists`."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Quarantined("not-json")
    document = load_document(text)
    if isinstance(document, Quarantined):
        return document
    state = document.get("resourceState")
    if document.get("kind") not in ("storage#object", None) or not isinstance(state, str | None):
        return Quarantined("unknown-envelope")
    kind: Kind = "removed" if state == "not_exists" else "created"
    return _outcome(document.get("bucket"), document.get("name"), kind, "object.change", event_time(document.get("updated")))


def _outcome(bucket: Any, key: Any, kind: Kind, cause: str, at: float | None) -> Outcome:
    problem: Reason | None = None
    if not isinstance(bucket, str) or not 0 < len(bucket) <= MAX_BUCKET_CHARS:
        problem = "no-bucket"
    elif not isinstance(key, str) or not key:
        problem = "no-key"
    elif key_problem(key):
        problem = "bad-key"
    return Quarantined(problem) if problem else ChangeEvent(bucket, key, kind, cause[:100], at)
