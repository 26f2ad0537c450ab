"""Which files are due, and whether a file system tells of changes: the rules, with times and mounts made up."""

from __future__ import annotations

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


def test_a_file_is_due_when_it_has_been_still_for_the_quiet_period() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    assert files.due(29) == []
    files.note("k", ONE, 29)
    assert files.due(30) == [("k", ONE)]
    files.done("k", ONE)
    assert files.due(99) == []


def test_a_file_that_grows_waits_from_its_last_change_on() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    files.note("k", TWO, 20)
    assert files.due(49) == []
    assert files.due(50) == [("k", TWO)]


def test_a_file_that_was_found_still_waits_for_the_rest_only_and_one_from_the_future_for_all_of_it() -> None:
    files = QuietFiles(30)
    files.note("old", ONE, 0, still_for_s=1000)
    files.note("young", ONE, 0, still_for_s=20)
    files.note("future", ONE, 0, still_for_s=-1000)
    assert [key for key, _ in files.due(0)] == ["old"]
    assert [key for key, _ in files.due(10)] == ["old", "young"]
    assert [key for key, _ in files.due(30)] == ["old", "young", "future"]


def test_the_old_name_of_a_renamed_file_waits_until_the_new_one_is_done() -> None:
    files = QuietFiles(0)
    files.note("old", None, 0, after=frozenset({"new"}))
    files.note("new", ONE, 0)
    assert files.due(5) == [("new", ONE)]
    assert files.awaited() == {"new"}
    files.done("new", ONE)
    assert files.due(5) == [("old", None)]


def test_a_name_does_not_wait_for_itself() -> None:
    files = QuietFiles(0)
    files.note("old", None, 0, after=frozenset({"old", "new"}))
    files.note("new", ONE, 0)
    assert files.due(5) == [("new", ONE)]
    files.done("new", ONE)
    assert files.due(5) == [("old", None)]


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
    assert {key for key, _ in files.due(0)} == new == files.awaited()


def test_a_change_that_comes_while_a_file_is_started_is_not_lost() -> None:
    files = QuietFiles(30)
    files.note("k", ONE, 0)
    assert files.due(30) == [("k", ONE)]
    files.note("k", TWO, 31)
    files.done("k", ONE)
    assert files.due(61) == [("k", TWO)]


def test_a_name_that_comes_back_is_no_longer_gone() -> None:
    files = QuietFiles(30)
    files.note("k", None, 0)
    files.note("k", ONE, 10)
    assert files.due(30) == []
    assert files.due(40) == [("k", ONE)]


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
