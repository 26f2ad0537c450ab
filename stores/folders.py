"""Directories that are opened once for many files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType

from stores.beneath import bucket_directory, open_directory


class Folders:
    """Descriptors of buckets and of directories in them, which are closed together. For one thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._opened = ExitStack()
        self._buckets: dict[str, int] = {}
        self._folders: dict[tuple[str, bytes], int] = {}

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    def bucket(self, bucket: str) -> int:
        """`BucketNotFound` where there is none."""
        if bucket not in self._buckets:
            self._buckets[bucket] = self._opened.enter_context(bucket_directory(self._root, bucket))
        return self._buckets[bucket]

    def open(self, bucket: str, parents: list[bytes]) -> int:
        """The directory `parents` in a bucket. OSError where none is found."""
        found = self.known(bucket, parents)
        return self.add(bucket, parents, open_directory(self.bucket(bucket), parents)) if found is None else found

    def known(self, bucket: str, parents: list[bytes]) -> int | None:
        """What stood there when it was opened; somebody may have removed it since."""
        return self._folders.get((bucket, b"/".join(parents)))

    def add(self, bucket: str, parents: list[bytes], folder: int) -> int:
        """Takes over a descriptor."""
        self._opened.callback(os.close, folder)
        self._folders[bucket, b"/".join(parents)] = folder
        return folder
