"""What SeaweedFS's filer says about its buckets, as release 4.48 sent it to a real listener, and what may be forged.

`seaweedfs-4.48.jsonl` holds one body a line, with what was done to the store to get it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.events import ChangeEvent, Nothing, Outcome, Quarantined
from ingest.seaweed_events import parse_seaweed_event
from replication.keys import key_problem

LINES = [json.loads(line) for line in (Path(__file__).parent / "seaweedfs-4.48.jsonl").read_text().splitlines()]
RECORDED = {line["what"]: line["body"] for line in LINES}


def created(key: str, bucket: str = "photos", cause: str = "create") -> ChangeEvent:
    return ChangeEvent(bucket, key, "created", f"seaweedfs:{cause}")


def removed(key: str, cause: str = "delete") -> ChangeEvent:
    return ChangeEvent("photos", key, "removed", f"seaweedfs:{cause}")


def touched(key: str, cause: str, bucket: str = "vers") -> ChangeEvent:
    return ChangeEvent(bucket, key, "other", f"seaweedfs:{cause}")


FOUND: dict[str, list[Outcome]] = {
    "put": [created("a.txt")],
    "put odd key": [created("dir/sub/red flower+50%.é")],
    "put newline": [created("x\ny")],
    "put markup": [created('a<b>&"c')],
    "overwrite": [created("a.txt", cause="update")],
    "tag": [created("t", cause="update")],
    "copy": [created("copied")],
    "put by filer": [created("viafiler")],
    "folder": [Nothing("directory")],
    "folder object": [touched("fo/", "create", "photos")],
    "uploads": [Nothing("internal")],
    "upload begun": [Nothing("internal")],
    "upload part": [Nothing("internal")],
    "upload part gone": [Nothing("internal")],
    "upload completed": [created("big/multi")],
    "delete": [removed("a.txt")],
    "delete folder": [Nothing("directory")],
    "delete below folder": [removed("rd/sub/b")],
    "rename": [created("renamed", cause="rename"), removed("big/multi", "rename")],
    "rename folder": [Nothing("directory"), Nothing("directory")],
    "rename below folder": [created("rn2/sub/b", cause="rename"), removed("rn/sub/b", "rename")],
    "bucket created": [Nothing("bucket")],
    "bucket versioned": [Nothing("bucket")],
    "bucket deleted": [Nothing("bucket")],
    "owner": [Nothing("internal")],
    "version put": [touched("v/k", "create")],
    "version superseded": [touched("v/k", "update")],
    "latest version named": [touched("v/k", "update")],
    "versions folder": [Nothing("directory")],
    "delete marker": [touched("v/k", "create")],
    "delete marker removed": [touched("v/k", "delete")],
    "null version is latest": [touched("k", "update")],
    "null version put": [created("k", "vers", "update")],
    "null delete marker": [touched("k", "create")],
    "lookalike of a version": [created("x.versions/v_6715ff5cffee2b72e12f992cbfc30c58")],
}


@pytest.mark.parametrize("what", RECORDED)
def test_recorded_bodies_name_the_objects_that_changed(what: str) -> None:
    assert parse_seaweed_event(RECORDED[what]) == FOUND[what]


@pytest.mark.parametrize(
    ("what", "has_time"),
    [("put", True), ("overwrite", True), ("upload completed", True), ("tag", False), ("rename", False), ("delete", False)],
)
def test_only_a_change_of_bytes_has_a_time(what: str, has_time: bool) -> None:
    """The modification time of the entry has whole seconds, and stays when only metadata changes."""
    event = (parse_seaweed_event(RECORDED[what]) or [])[0]
    entry = json.loads(RECORDED[what])["message"].get("new_entry") or {"attributes": {"mtime": 0}}
    assert isinstance(event, ChangeEvent)
    assert event.at is None if not has_time else 0 <= (event.at or 0) - entry["attributes"]["mtime"] < 2


def forged(path: Any, **message: Any) -> str:
    return json.dumps({"event_type": "create", "key": path, "message": message})


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (forged("/buckets/photos/a"), Quarantined("bad-record")),
        (forged("/buckets/photos/a", new_entry=5, old_entry="x"), Quarantined("bad-record")),
        (forged("/buckets/photos/" + "k" * 1025, new_entry={}), Quarantined("bad-key")),
        (forged("/buckets/photos/nul\0", new_entry={}), Quarantined("bad-key")),
        (forged("/etc/passwd", new_entry={}), Nothing("outside-buckets")),
        (forged("/buckets//a", new_entry={}), Nothing("bucket")),
        (forged("/buckets/photos/../x", new_entry={}), created("../x")),
        (forged("/buckets/photos/a", new_entry={"chunks": [{"modified_ts_ns": "now"}, 5], "attributes": [], "extended": 5}), created("a")),
        (forged("/buckets/photos/.versions/v_1", new_entry={"extended": {"Seaweed-X-Amz-Version-Id": ""}}), Quarantined("bad-key")),
    ],
)
def test_forged_bodies_are_judged_by_what_they_name(body: str, outcome: Outcome) -> None:
    assert parse_seaweed_event(body) == [outcome]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '"event_type"',
        '{"event_type": 5, "key": "k", "message": {}}',
        '{"event_type": "x", "message": {}}',
        '{"event_type":' * 2000,
    ],
)
def test_a_body_of_another_kind_is_left_to_other_parsers(body: str) -> None:
    assert parse_seaweed_event(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "chunks", "extended", "attributes"]), inner),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries({}, optional={"new_entry": JSON, "old_entry": JSON, "new_parent_path": JSON | st.just("/buckets/b")})


@given(kind=st.text(), path=st.text() | st.text().map(lambda key: f"/buckets/b/{key}"), message=MESSAGES)
def test_no_message_raises_or_yields_a_key_that_no_store_can_hold(kind: str, path: str, message: dict[str, Any]) -> None:
    outcomes = parse_seaweed_event(json.dumps({"event_type": kind, "key": path, "message": message}))
    assert outcomes
    assert not [outcome for outcome in outcomes if isinstance(outcome, ChangeEvent) and key_problem(outcome.key)]
