"""What the kernel tells of a tree, as it tells it: an event can be read as soon as the call that made it returns."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest import inotify
from ingest.__main__ import ingest_problems
from ingest.inotify import WatchedTree, WatchLimit
from replication.ingest_settings import IngestSettings, WatchSettings

pytestmark = pytest.mark.skipif(not inotify.AVAILABLE, reason="inotify is Linux's")

Skipped = list[tuple[str, str]]


@pytest.fixture
def skipped() -> Skipped:
    return []


@pytest.fixture
def tree(tmp_path: Path, skipped: Skipped) -> Iterator[WatchedTree]:
    (tmp_path / "root/a/b").mkdir(parents=True)
    made = WatchedTree(str(tmp_path / "root"), lambda path, why: skipped.append((os.path.relpath(path, made.root), why)))
    made.add_all()
    yield made
    made.close()


def told(tree: WatchedTree) -> tuple[set[str], set[str]]:
    """The names that appeared and those that were removed, below the root."""
    changes = tree.read()
    assert not changes.missed
    appeared, removed = ({os.path.relpath(path, tree.root) for path in paths} for paths in (changes.appeared, changes.removed))
    return appeared, removed


def test_each_change_is_told_by_the_name_that_it_has(tree: WatchedTree, tmp_path: Path) -> None:
    root = Path(tree.root)
    (root / "a/b/k").write_text("1")
    (root / "a/gone").touch()
    os.unlink(root / "a/gone")
    os.rename(root / "a/b/k", root / "k")
    os.symlink(root / "a", root / "link")
    assert told(tree) == ({"a/b/k", "a/gone", "k", "link"}, {"a/gone", "a/b/k"})
    os.utime(root / "k")
    os.chmod(root / "a", 0o700)
    assert told(tree) == ({"k"}, set())
    (root / "link/b/through").touch()
    assert told(tree) == ({"a/b/through"}, set())


def test_a_directory_that_moves_is_told_of_by_its_new_name_with_all_below_it(tree: WatchedTree) -> None:
    root = Path(tree.root)
    os.rename(root / "a", root / "c")
    assert told(tree) == ({"c"}, {"a"})
    (root / "c/b/k").touch()
    assert told(tree) == ({"c/b/k"}, set())
    assert len(tree) == 3


def test_a_directory_that_moves_to_and_fro_before_anybody_looks_is_told_of_by_its_last_name(tree: WatchedTree) -> None:
    root = Path(tree.root)
    (root / "new/deep").mkdir(parents=True)
    os.rename(root / "new", root / "a/b/new")
    os.rename(root / "a", root / "c")
    (root / "a").mkdir()
    os.rename(root / "c/b", root / "a/b")
    told(tree)
    for path in ("a", "a/b", "a/b/new", "a/b/new/deep", "c"):
        (root / path / "k").touch()
    assert told(tree) == ({"a/k", "a/b/k", "a/b/new/k", "a/b/new/deep/k", "c/k"}, set())
    assert len(tree) == 6


def test_a_directory_that_moves_out_is_told_of_no_longer(tree: WatchedTree, tmp_path: Path) -> None:
    root = Path(tree.root)
    shutil.move(root / "a", tmp_path / "away")
    (tmp_path / "away/b/k").touch()
    assert told(tree) == (set(), {"a"})
    (tmp_path / "away/b/later").touch()
    assert told(tree) == (set(), set())
    assert len(tree) == 1
    shutil.move(tmp_path / "away", root / "back")
    (root / "back/b/again").touch()
    assert "back" in told(tree)[0]
    (root / "back/b/again").touch()
    assert told(tree) == ({"back/b/again"}, set())


def test_a_directory_that_is_removed_and_made_anew_is_watched_again(tree: WatchedTree) -> None:
    root = Path(tree.root)
    for _ in range(3):
        held = os.open(root / "a", os.O_RDONLY)  # so that the kernel ends the old watch late
        shutil.rmtree(root / "a")
        (root / "a/b").mkdir(parents=True)
        told(tree)
        (root / "a/b/k").touch()
        assert told(tree) == ({"a/b/k"}, set())
        os.close(held)
        told(tree)
        (root / "a/k").touch()
        assert told(tree) == ({"a/k"}, set())
        assert len(tree) == 3


def test_names_that_are_not_utf8_come_escaped(tree: WatchedTree) -> None:
    root = os.fsencode(tree.root)
    os.mkdir(root + b"/deep\xff")
    assert told(tree) == ({"deep\udcff"}, set())
    with open(root + b"/deep\xff/k\xfe", "wb"):
        pass
    assert told(tree) == ({"deep\udcff/k\udcfe"}, set())


def test_no_file_of_a_tree_that_grows_while_it_is_registered_is_missed(tree: WatchedTree) -> None:
    """A directory that appeared is looked into after it was told of, as whoever follows the tree does. Some grow before the
    first is watched and some after the last was looked into, so that neither way alone can find all; the rest races."""
    made, seen, by_look = set[str](), set[str](), set[str]()

    def make(numbers: range, *names: str) -> None:
        for number in numbers:
            folder = os.path.join(tree.root, f"d{number}", *"abcd"[: number % 5])
            os.makedirs(folder, exist_ok=True)
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "wb"):
                    made.add(path)

    def follow() -> None:
        select.select([tree.fd], [], [], 0.05)
        appeared = tree.read().appeared
        seen.update(appeared)
        for path in appeared:
            by_look.update(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)

    make(range(20), "x", "y")
    maker = threading.Thread(target=make, args=(range(20, 500), "x", "y"))
    maker.start()
    while maker.is_alive():
        follow()
    follow()
    assert made <= seen | by_look
    assert made - seen, "what came before its directory was watched cannot be told"
    make(range(480, 500), "z")
    follow()
    assert made <= seen | by_look
    assert made - by_look, "what came after the look can only be told"


def test_the_kernel_says_when_it_dropped_something(tree: WatchedTree) -> None:
    pair = Path(tree.root, "one"), Path(tree.root, "other")
    for path in pair:
        path.touch()
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
        for path in pair:
            os.utime(path)
    (Path(tree.root) / "dropped").touch()
    changes = tree.read()
    assert changes.missed
    assert os.path.join(tree.root, "dropped") not in changes.appeared


def test_what_is_closed_while_a_thread_is_at_work_is_closed_by_that_one(tree: WatchedTree) -> None:
    with tree._working:
        tree.close()
        os.fstat(tree.fd)
    number = tree.fd
    assert len(tree.read()) == 0
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder to which this process has the rights of an ordinary user."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_a_directory_that_cannot_be_read_is_named_and_watched_as_soon_as_it_can_be(nobody: Path, skipped: Skipped) -> None:
    (nobody / "closed/deep").mkdir(parents=True)
    os.chmod(nobody / "closed", 0o300)
    tree = WatchedTree(str(nobody), lambda path, why: skipped.append((os.path.relpath(path, nobody), why)))
    tree.add_all()
    assert skipped == [("closed", "Permission denied")]
    os.chmod(nobody / "closed", 0o700)
    assert told(tree) == ({"closed"}, set())
    (nobody / "closed/deep/k").touch()
    assert told(tree) == ({"closed/deep/k"}, set())
    tree.close()


class Full:
    """A kernel at its limits cannot be had here, so its answer is put in the library's place."""

    def __init__(self, **answers: int) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> object:
        if name not in self._answers:
            return getattr(ctypes.CDLL(None, use_errno=True), name)

        def refuse(*_: object) -> int:
            ctypes.set_errno(self._answers[name])
            return -1

        return refuse


@pytest.mark.parametrize(
    ("call", "number", "limit"),
    [
        ("inotify_add_watch", errno.ENOSPC, r"fs\.inotify\.max_user_watches"),
        ("inotify_init1", errno.EMFILE, r"fs\.inotify\.max_user_instances"),
    ],
)
def test_a_limit_of_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, number: int, limit: str) -> None:
    monkeypatch.setattr(inotify, "_libc", Full(**{call: number}))

    def watch() -> None:
        tree = WatchedTree(str(tmp_path), lambda path, why: None)
        try:
            tree.add_all()
        finally:
            tree.close()

    with pytest.raises(WatchLimit, match=limit):
        watch()


def test_native_is_refused_where_there_is_no_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = IngestSettings(watch=(WatchSettings(route="a"), WatchSettings(route="b", mode="native")))
    assert ingest_problems(settings) == []
    monkeypatch.setattr(inotify, "AVAILABLE", False)
    assert ingest_problems(settings) == ["ingest.watch[1].mode: 'native' needs inotify, which this system has not; 'auto' polls"]
