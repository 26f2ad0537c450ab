"""Bodies that SeaweedFS's filer posts to a webhook, parsed into change events by a pure function. No input raises.

They are filer events, not S3 records: `{"event_type": "create" | "update" | "delete" | "rename", "key": PATH, "message":
{"old_entry": …, "new_entry": …, "new_parent_path": …}}`, recorded from release 4.48. `key` is the path before the
change, `new_parent_path` and the new entry's name are the path after it; neither is encoded in any way. Objects stand
under `/buckets/BUCKET/KEY`. A change of a whole folder comes as one event for each entry below it besides its own.

Several paths stand for something else than an object of their name:

- A folder is no object, unless it has a media type: `put_object("dir/")` makes such a folder, and S3 lists it as `dir/`.
- In a bucket with versions, `KEY.versions/v_ID` holds one version, and extended attributes of the folder `KEY.versions`
  name the latest: both are changes of KEY. An object that is only called so has no version id in its attributes.
- `.uploads` in a bucket holds multipart uploads that are under way. Buckets whose name starts with a dot are the filer's.
"""

from __future__ import annotations

import json
from typing import Any

from ingest.events import ChangeEvent, Kind, Nothing, Outcome, Quarantined
from replication.keys import key_problem

BUCKETS = "/buckets/"
VERSIONS = ".versions"
UPLOADS = ".uploads"
VERSION_ID = "Seaweed-X-Amz-Version-Id"
LATEST_VERSION = "Seaweed-X-Amz-Latest-Version-Id"
NANO = 1e-9

Entry = dict[str, Any]


def parse_seaweed_event(text: str) -> list[Outcome] | None:
    """The outcome of each path that the event names, never empty; None for a body of another kind. Never raises."""
    document = _filer_event(text)
    if document is None:
        return None
    path, message, cause = document["key"], document["message"], f"seaweedfs:{document['event_type'][:20]}"
    old, new = _entry(message, "old_entry"), _entry(message, "new_entry")
    found: list[Outcome] = []
    after = _path_after(message, new) or path
    if new is not None:
        found.append(_outcome(after, [new, *([old] if old and after == path else [])], "created", cause, _written_at(new, old)))
    if old is not None and (new is None or after != path):
        found.append(_outcome(path, [old], "removed", cause, None))
    return found or [Quarantined("bad-record")]


def _filer_event(text: str) -> dict[str, Any] | None:
    if '"event_type"' not in text:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("message"), dict):
        return None
    return document if isinstance(document.get("event_type"), str) and isinstance(document.get("key"), str) else None


def _entry(message: dict[str, Any], name: str) -> Entry | None:
    entry = message.get(name)
    return entry if isinstance(entry, dict) else None


def _path_after(message: dict[str, Any], new: Entry | None) -> str | None:
    parent, name = message.get("new_parent_path"), (new or {}).get("name")
    return f"{parent}/{name}" if isinstance(parent, str) and isinstance(name, str) else None


def _outcome(path: str, entries: list[Entry], kind: Kind, cause: str, at: float | None) -> Outcome:
    """What a change of `path` asks for; `entries` are what the filer has there, the newest first."""
    if not path.startswith(BUCKETS):
        return Nothing("outside-buckets")
    bucket, _, name = path.removeprefix(BUCKETS).partition("/")
    if bucket.startswith(".") or name == UPLOADS or name.startswith(f"{UPLOADS}/"):
        return Nothing("internal")
    if not bucket or not name:
        return Nothing("bucket")
    key = _key(name, entries)
    if key is None:
        return Nothing("directory")
    return Quarantined("bad-key") if key_problem(key) else ChangeEvent(bucket, key, kind if key == name else "other", cause, at)


def _key(name: str, entries: list[Entry]) -> str | None:
    """The object's key; None for a folder that is no object."""
    parent, _, _ = name.rpartition("/")
    if not entries[0].get("is_directory"):
        is_version = parent.endswith(VERSIONS) and _has(entries, VERSION_ID)
        return parent.removesuffix(VERSIONS) if is_version else name
    if name.endswith(VERSIONS) and _has(entries, LATEST_VERSION):
        return name.removesuffix(VERSIONS)
    return f"{name}/" if _inner(entries[0], "attributes").get("mime") else None


def _has(entries: list[Entry], attribute: str) -> bool:
    return any(attribute in _inner(entry, "extended") for entry in entries)


def _inner(entry: Entry, name: str) -> dict[str, Any]:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


def _written_at(new: Entry, old: Entry | None) -> float | None:
    """When bytes were last written, in seconds since 1970; None for a change that wrote none. The modification time of
    an entry is no help: it has whole seconds, and a change of metadata leaves it."""
    written = _chunk_times(new) - (_chunk_times(old) if old else set())
    return max(written) * NANO if written else None


def _chunk_times(entry: Entry) -> set[int]:
    chunks = entry.get("chunks")
    times = [chunk.get("modified_ts_ns") for chunk in chunks if isinstance(chunk, dict)] if isinstance(chunks, list) else []
    return {time for time in times if isinstance(time, int) and 0 < time < 2**63}
