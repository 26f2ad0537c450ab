"""What a notice says, and which event it is."""

from __future__ import annotations

from typing import get_args

import pytest

from replication.notices import EVENTS, NoticeEvent, held_notice, pass_notice
from replication.passes import Counters, Mode, PassState


@pytest.mark.parametrize(
    ("mode", "state", "reason", "counters", "event", "text"),
    [
        ("repair", "done", "", Counters(), "pass-ended", "photos: repair done"),
        ("repair", "done", "", Counters(listed=12_345, extra=1), "pass-ended", "photos: repair done: 12,345 listed, 1 extra"),
        ("repair", "cancelled", "", Counters(listed=1), "pass-ended", "photos: repair cancelled: 1 listed"),
        ("repair", "incomplete", "", Counters(listed=2, failed=1), "pass-failed", "photos: repair incomplete: 2 listed, 1 failed"),
        ("repair", "failed", "throttled", Counters(), "pass-failed", "photos: repair failed (throttled)"),
        ("verify", "done", "", Counters(listed=1, skipped=1), "pass-ended", "photos: verify done: 1 listed"),
        ("verify", "done", "", Counters(extra=1), "pass-failed", "photos: verify done: 1 extra"),
        ("verify", "incomplete", "", Counters(listed=1, differing=1), "pass-failed", "photos: verify incomplete: 1 listed, 1 differing"),
    ],
)  # fmt: skip
def test_the_end_of_a_pass(mode: Mode, state: PassState, reason: str, counters: Counters, event: str, text: str) -> None:
    notice = pass_notice("photos", mode, "p1", state, reason, counters, 1_767_322_800.0)
    assert (notice.event, notice.text, notice.at.isoformat()) == (event, text, "2026-01-02T03:00:00+00:00")
    assert notice.workflow_id == f"notice:{event}:photos:p1"


def test_deletions_of_changes_are_one_notice_an_hour_and_those_of_a_pass_one_a_pass() -> None:
    ids = [held_notice("photos", "many", "", at).workflow_id for at in (1_767_322_800.0, 1_767_326_399.0, 1_767_326_400.0)]
    assert ids == ["notice:deletions-held:photos:2026-01-02T03"] * 2 + ["notice:deletions-held:photos:2026-01-02T04"]
    assert {held_notice("photos", "many", "p1", at).workflow_id for at in (0.0, 1e9)} == {"notice:deletions-held:photos:p1"}


def test_every_event_has_a_meaning() -> None:
    assert set(EVENTS) == set(get_args(NoticeEvent))
