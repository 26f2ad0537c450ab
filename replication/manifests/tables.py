"""Table formats: Iceberg metadata, Delta Lake logs, and markers that a job writes last.

Only what stands in JSON is read: an Iceberg manifest list, which is Avro, is a plain object here that table metadata names.
https://iceberg.apache.org/spec/#table-metadata
https://github.com/delta-io/delta/blob/master/PROTOCOL.md#delta-log-entries
"""

from __future__ import annotations

import re
import uuid
from base64 import b85decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from replication.errors import InvalidManifest
from replication.manifests.documents import load_json, load_lines
from replication.manifests.keys import Base, folder_of, member, unique
from replication.manifests.references import Reference

ICEBERG_MATCH = "**/metadata/*.metadata.json"
DELTA_MATCH = ("**/_delta_log/*.json", "**/_delta_log/_last_checkpoint")
SUCCESS_MATCH = "**/_SUCCESS"

_COMMIT = re.compile(r"([0-9]{20})\.json")
_LAST_CHECKPOINT = "_last_checkpoint"


@dataclass(frozen=True, slots=True)
class IcebergRule:
    """`*.metadata.json`: manifest lists, the manifests of format 1, older metadata, and statistics."""

    base: Base
    reads: Literal["content", "siblings"] = "content"

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        document = load_json(content, content_encoding)
        if not isinstance(document, dict) or "format-version" not in document:
            raise InvalidManifest("the document is no Iceberg table metadata: it has no format-version")
        return unique((self.base.key(name) for name in _iceberg_names(document)), "object")

    def siblings(self, key: str) -> str:
        raise AssertionError("table metadata has content")


def _iceberg_names(document: dict[str, Any]) -> Iterator[str]:
    for number, snapshot in enumerate(_list(document, "snapshots")):
        where = f"snapshots[{number}]"
        if "manifest-list" in snapshot:
            yield member(snapshot, "manifest-list", str, where)
        yield from (_text(name, f"{where}.manifests") for name in _list(snapshot, "manifests"))
    for number, entry in enumerate(_list(document, "metadata-log")):
        yield member(entry, "metadata-file", str, f"metadata-log[{number}]")
    for section in ("statistics", "partition-statistics"):
        for number, entry in enumerate(_list(document, section)):
            yield member(entry, "statistics-path", str, f"{section}[{number}]")


@dataclass(frozen=True, slots=True)
class DeltaRule:
    """A commit of `_delta_log`: the files it adds, and the commit before it; `_last_checkpoint`: its checkpoint.

    A key that no replica of the commit before can exist for (the log was cleaned up at the source) is not asked for:
    the chain ends where the source's own log begins, which the first missing commit of a stalled table tells.
    """

    base: Base
    reads: Literal["content", "siblings"] = "content"

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        name = self.base.below(key)
        log = folder_of(name)
        table = folder_of(log[:-1])
        if name.endswith(_LAST_CHECKPOINT):
            names = _checkpoint_names(load_json(content, content_encoding), log)
            return unique((self.base.key(part) for part in names), "object")
        added = [self._file(path, table) for path in _delta_paths(load_lines(content, content_encoding))]
        return (*self._before(name, log), *unique(added, "object"))

    def siblings(self, key: str) -> str:
        raise AssertionError("a commit has content")

    def _before(self, name: str, log: str) -> list[Reference]:
        match = _COMMIT.fullmatch(name[len(log) :])
        if match is None or int(match[1]) == 0:
            return []
        return [Reference(self.base.key(f"{log}{int(match[1]) - 1:020d}.json"), "manifest")]

    def _file(self, path: str, table: str) -> str:
        return self.base.key(path if "://" in path[:8] else table + path)


def _delta_paths(actions: list[Any]) -> Iterator[str]:
    for number, action in enumerate(actions, start=1):
        if not isinstance(action, dict):
            raise InvalidManifest(f"line {number} of the commit is no action")
        for kind in ("add", "cdc"):
            if kind in action:
                yield unquote(member(action[kind], "path", str, f"line {number}: {kind}"))
        vector = action.get("add", {}).get("deletionVector") if isinstance(action.get("add"), dict) else None
        if vector is not None:
            yield from _vector_path(vector, f"line {number}: deletionVector")


def _vector_path(vector: Any, where: str) -> Iterator[str]:
    """Inline vectors have no file; `u` is an encoded UUID behind a random prefix, `p` an absolute path."""
    storage, name = member(vector, "storageType", str, where), member(vector, "pathOrInlineDv", str, where)
    if storage == "p":
        yield unquote(name)
    elif storage == "u":
        prefix, encoded = name[:-20], name[-20:]
        try:
            identity = uuid.UUID(bytes=_z85(encoded))
        except ValueError:
            raise InvalidManifest(f"{where} has no encoded UUID") from None
        yield f"{prefix}/deletion_vector_{identity}.bin" if prefix else f"deletion_vector_{identity}.bin"
    elif storage != "i":
        raise InvalidManifest(f"{where} has an unknown storageType")


_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_TO_B85 = str.maketrans(_Z85, _B85)


def _z85(text: str) -> bytes:
    if any(character not in _Z85 for character in text):
        raise ValueError("is no Z85")
    return b85decode(text.translate(_TO_B85))


def _checkpoint_names(document: Any, log: str) -> list[str]:
    version = member(document, "version", int, "_last_checkpoint")
    parts = document.get("parts")
    if parts is None:
        return [f"{log}{version:020d}.checkpoint.parquet"]
    if not isinstance(parts, int) or isinstance(parts, bool) or not 1 <= parts <= 100_000:
        raise InvalidManifest("_last_checkpoint has parts that are no number of parts")
    return [f"{log}{version:020d}.checkpoint.{part:010d}.{parts:010d}.parquet" for part in range(1, parts + 1)]


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """A marker that is written last: everything that the source lists in its folder, and below, must stand before it."""

    base: Base
    reads: Literal["content", "siblings"] = "siblings"

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        raise AssertionError("a marker says nothing")

    def siblings(self, key: str) -> str:
        """The prefix of what the marker waits for. The marker itself, and other markers, are for the caller to leave out."""
        return folder_of(key)


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidManifest(f"{name} is no list")
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidManifest(f"{where} holds something that is no text")
    return value
