"""Files, many at a time: one look at each directory, and one wait for the disk instead of one for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

from replication.models import ObjectInfo, Version
from stores import fileread
from stores.beneath import mapped, start_writeback, sync_directory
from stores.folders import Folders
from stores.keylock import Locks
from stores.publish import Commit, Incoming, give_name, prepare, published, sync
from stores.sidecar import Record

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Looked:
    """An object that is to be looked at."""

    bucket: str
    key: str
    tags: bool

    def answer(self, folders: Folders) -> ObjectInfo:
        return fileread.head(folders, self.bucket, self.key, tags=self.tags)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version of an object that is to be read."""

    bucket: str
    key: str
    pin: Version

    def answer(self, folders: Folders) -> tuple[ObjectInfo, bytes]:
        return fileread.fetch(folders, self.bucket, self.key, self.pin)


class Question(Protocol[Answer]):
    """What is asked of one object, in directories that others may have opened."""

    def answer(self, folders: Folders) -> Answer: ...


def answer_all(root: str, questions: Sequence[Question[Answer]]) -> list[Answer | Exception]:
    """What each of them asks for, or why it cannot be had."""
    answers: list[Answer | Exception] = []
    with Folders(root) as folders:
        for question in questions:
            try:
                answers.append(question.answer(folders))
            except Exception as error:
                answers.append(error)
    return answers


@dataclass(slots=True, eq=False)
class Whole:
    """All the bytes of an object that is to be written."""

    incoming: Incoming
    data: bytes
    commit: Commit
    beside: Record | None = None
    answer: ObjectInfo | Exception | None = None


def store_all(root: str, wholes: Sequence[Whole]) -> list[ObjectInfo | Exception | None]:
    """What each became, or why it did not. None: somebody holds the key's lock, and `Incoming.publish` is to wait for it.

    Each step is made for all before the next one: while the first file is being synced the disk has the others already, and a
    journal takes them all in one go. A directory is synced once for all names in it. Those without an answer that is an object's
    keep their directory open, and are to be discarded or published.
    """
    with Folders(root) as folders:
        written = _each(wholes, lambda whole: _write(whole, folders))
        for whole in written:
            start_writeback(whole.incoming.file.fd)
        named = _give_names(_each(written, lambda whole: sync(whole.incoming.file, whole.commit)), folders)
        sync_folder = cache(lambda folder: _failure(lambda: sync_directory(folder)))
        _each(named, lambda whole: _publish(whole, sync_folder(whole.incoming.file.folder)))
        for whole in wholes:
            if not isinstance(whole.answer, ObjectInfo):
                whole.incoming.keep_folder()
    return [whole.answer for whole in wholes]


def _write(whole: Whole, folders: Folders) -> None:
    whole.incoming.open(folders)
    whole.incoming.write([whole.data])
    whole.beside = prepare(whole.incoming.file, whole.commit)


def _give_names(wholes: Sequence[Whole], folders: Folders) -> list[Whole]:
    """Those whose lock was free and whose condition held."""
    held: dict[str, Locks] = {}

    def give(whole: Whole) -> None:
        bucket, key = whole.incoming.bucket, whole.incoming.key
        locks = held.setdefault(bucket, Locks(folders.bucket(bucket)))
        if not locks.try_hold(key):
            raise _Busy
        try:
            give_name(whole.incoming.file, whole.commit, whole.beside)
        finally:
            locks.release(key)

    try:
        return _each(wholes, give)
    finally:
        for locks in held.values():
            locks.close()


class _Busy(Exception):
    """Somebody holds the key's lock."""


def _publish(whole: Whole, failure: OSError | None) -> None:
    if failure is not None:
        raise failure
    whole.answer = published(whole.incoming.file, whole.commit)
    whole.incoming.close()


def _each(wholes: Sequence[Whole], step: Callable[[Whole], None]) -> list[Whole]:
    """Those that passed the step; the others have its error."""
    passed = []
    for whole in wholes:
        try:
            with mapped(whole.incoming.key):
                step(whole)
            passed.append(whole)
        except _Busy:
            pass
        except Exception as error:
            whole.answer = error
    return passed


def _failure(work: Callable[[], None]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None
