"""Which files are due, and whether a file system tells of changes: the rules, with times and mounts made up."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import PurePosixPath

import pytest

from ingest.mounts import needs_polling
from ingest.quiet import Look, QuietFiles

ONE, TWO = Look(1, 100, 7), Look(2, 200, 7)
MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/share rw - nfs4 server:/export rw
31 22 0:41 / /srv/share/local rw - tmpfs tmpfs rw
32 22 0:42 / /mnt/a\040b rw - fuse.sshfs host: rw
nonsense
"""


def due(files: QuietFiles, now: float) -> list[tuple[str, Look | None]]:
    return [(pending.key, pending.look) for pending in files.due(now)]


def finish(files: QuietFiles, key: str) -> None:
    for taken in files.take(pending for pending in files.due(math.inf) if pending.key == key):
        files.done(taken)


def test_a_file_is_due_when_it_has_been_still_for_the_quiet_period() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    assert due(files, 29) == []
    files.note("k", ONE, 29)
    assert due(files, 30) == [("k", ONE)]
    finish(files, "k")
    assert due(files, 99) == []


def test_a_file_that_grows_waits_from_its_last_change_on() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    files.note("k", TWO, 20)
    assert due(files, 49) == []
    assert due(files, 50) == [("k", TWO)]


def test_a_file_that_was_found_still_waits_for_the_rest_only_and_one_from_the_future_for_all_of_it() -> None:
    files = QuietFiles(30)
    files.note("old", ONE, 0, still_for_s=1000)
    files.note("young", ONE, 0, still_for_s=20)
    files.note("future", ONE, 0, still_for_s=-1000)
    assert [key for key, _ in due(files, 0)] == ["old"]
    assert [key for key, _ in due(files, 10)] == ["old", "young"]
    assert [key for key, _ in due(files, 30)] == ["old", "young", "future"]


def test_the_old_name_of_a_renamed_file_waits_until_the_new_one_is_done() -> None:
    files = QuietFiles(0)
    files.note("old", None, 0, after=frozenset({"new"}))
    files.note("new", ONE, 0)
    assert due(files, 5) == [("new", ONE)]
    assert files.awaited() == {"new"}
    finish(files, "new")
    assert due(files, 5) == [("old", None)]


def test_a_name_does_not_wait_for_itself() -> None:
    files = QuietFiles(0)
    files.note("old", None, 0, after=frozenset({"old", "new"}))
    files.note("new", ONE, 0)
    assert due(files, 5) == [("new", ONE)]
    finish(files, "new")
    assert due(files, 5) == [("old", None)]


def test_what_stands_in_the_way_of_a_file_that_it_waited_for_goes_first() -> None:
    files = QuietFiles(0)
    files.note("d", None, 0, after=frozenset({"d/x"}))
    files.note("d/x", ONE, 0, after=frozenset({"d"}))
    assert due(files, 5) == []
    files.note("d", None, 0, after=None)
    assert due(files, 5) == [("d", None)]
    finish(files, "d")
    assert due(files, 5) == [("d/x", ONE)]


def test_what_waits_for_the_same_files_shares_them() -> None:
    files, names = QuietFiles(0), range(2_000)
    new = frozenset(f"new/{number}" for number in names)
    tracemalloc.start()
    for key in new:
        files.note(key, ONE, 0)
    for number in names:
        files.note(f"old/{number}", None, 0, after=new)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 10 * 2**20
    assert {key for key, _ in due(files, 0)} == new == files.awaited()


def test_what_is_under_way_is_not_due_and_others_wait_for_it_until_it_is_done() -> None:
    files = QuietFiles(0)
    files.note("old", None, 0, after=frozenset({"new"}))
    files.note("new", ONE, 0)
    (new,) = files.take(files.due(5))
    assert due(files, 5) == []
    assert files.awaited() == {"new"}
    files.done(new)
    assert due(files, 5) == [("old", None)]


@pytest.mark.parametrize("look", [ONE, TWO, None], ids=["same", "other", "gone"])
def test_a_change_that_comes_while_a_file_is_under_way_starts_it_again(look: Look | None) -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    (first,) = files.take(files.due(30))
    files.note("k", look, 31)
    files.done(first)
    assert due(files, 60) == []
    assert due(files, 61) == [("k", look)]


def test_the_end_of_one_change_is_not_that_of_a_later_one_that_looks_the_same() -> None:
    files = QuietFiles(0)
    files.note("heir", ONE, 0, after=frozenset({"k"}))
    files.note("k", None, 0)
    (first,) = files.take(files.due(0))
    files.note("k", ONE, 1)
    files.note("k", None, 2)
    (second,) = files.take(files.due(2))
    files.done(first)
    assert due(files, 2) == []
    files.done(second)
    assert due(files, 2) == [("heir", ONE)]


def test_what_changed_since_it_was_due_is_not_taken() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    files.note("heir", ONE, 0)
    seen = files.due(30)
    files.note("k", TWO, 30)
    files.note("heir", ONE, 30, after=frozenset({"k"}))
    assert files.take(seen) == []
    assert due(files, 60) == [("k", TWO)]


def test_what_was_under_way_when_the_work_on_it_broke_off_is_pending_again() -> None:
    files = QuietFiles(30)
    for key in ("changed", "left"):
        files.note(key, ONE, 0)
    files.take(files.due(30))
    files.note("changed", TWO, 31)
    files.give_back()
    assert due(files, 31) == [("left", ONE)]
    assert due(files, 61) == [("changed", TWO), ("left", ONE)]


def test_a_name_that_comes_back_is_no_longer_gone() -> None:
    files = QuietFiles(30)
    files.note("k", None, 0)
    files.note("k", ONE, 10)
    assert due(files, 30) == []
    assert due(files, 40) == [("k", ONE)]


@pytest.mark.parametrize(
    ("path", "polling"),
    [
        ("/home/data", False),
        ("/srv/share", True),
        ("/srv/share/deep/down", True),
        ("/srv/share/local/x", False),
        ("/mnt/a b/c", True),
        ("/mnt/a", False),
    ],
)
def test_network_and_user_space_file_systems_are_polled(path: str, polling: bool) -> None:
    assert needs_polling(MOUNTS, PurePosixPath(path)) is polling
