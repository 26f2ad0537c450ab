"""The rules of table formats: Iceberg metadata, the Delta Lake log, and markers that say that a directory is complete.

Only what stands in JSON is read: Avro and Parquet files that name other files (manifest lists, manifests, checkpoints) are
plain objects here. The formats are those of https://iceberg.apache.org/spec/ and
https://github.com/delta-io/delta/blob/master/PROTOCOL.md.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote

from replication.errors import InvalidManifest
from replication.manifests.documents import gunzip, is_gzip, parse, parse_lines, unpack
from replication.manifests.locations import Source, directory_of, distinct, is_uri, kind_of, shown
from replication.manifests.references import Reference
from replication.manifests.rule import ContentRule, SiblingsRule

T = TypeVar("T")

ICEBERG_NAMES = re.compile(r".*\.json(?:\.gz)?", re.DOTALL)
"""What can be table metadata; it stands among Avro and Puffin files."""
DELTA_NAMES = re.compile(
    r"((?:.*/)?_delta_log/)(?:([0-9]{20})\.json|[0-9]{20}\.checkpoint\.[^/.]+\.json|[0-9]{20}\.[0-9]{20}\.compacted\.json|(_last_checkpoint))",
    re.DOTALL,
)
"""The log's directory; a commit with its number, a JSON checkpoint, a compacted log, or the pointer to a checkpoint."""


@dataclass(frozen=True, slots=True)
class SuccessRule(SiblingsRule):
    """A marker such as `_SUCCESS` waits for everything below its own directory."""

    source: Source

    def siblings(self, key: str) -> str:
        return self.source.prefix + directory_of(self.source.below(key))


# --- Iceberg ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IcebergRule(ContentRule):
    """Table metadata names the manifest lists (in version 1, also the manifests) of its snapshots, older metadata, and
    statistics files.

    A path is a URI of the source's bucket; or it stands below the table's `location`, which means the directory around the
    metadata's own; or it is relative to that location (version 4).
    """

    source: Source

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        data = unpack(content, content_encoding)
        document = _object(parse(gunzip(data) if is_gzip(data) else data), "the metadata")
        if not isinstance(document.get("format-version"), int):
            raise InvalidManifest("is no Iceberg metadata: has no format-version")
        location, table = _optional(document, "location", str, ""), _table_of(self.source.below(key))
        paths = _iceberg_paths(document)
        return _while_kept(_reference(where, path, lambda text: self._key(text, location, table)) for where, path in paths)

    def _key(self, path: str, location: str, table: str) -> str:
        root = location.rstrip("/") + "/"
        if location and path.startswith(root) and not self.source.has_uri(path):
            return self.source.key(table + path[len(root) :])
        if (full := self.source.of_uri(path)) is not None:
            return self.source.checked(full)
        if path.startswith("/") or is_uri(path):
            raise ValueError(f"{shown(path)} is not below the table's location")
        if self.source.has_uri(location):
            return self._key(f"{location}/{path}", location, table)
        return self.source.key(table + path)


def _table_of(metadata: str) -> str:
    """The directory around `metadata/`."""
    directory = directory_of(metadata)
    return directory_of(directory[:-1]) if directory.split("/")[-2:-1] == ["metadata"] else directory


def _iceberg_paths(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for where, snapshot in _objects(document, "snapshots"):
        if snapshot.get("manifest-list") is not None:
            yield f"{where}.manifest-list", snapshot["manifest-list"]
        else:
            for number, path in enumerate(_list(snapshot, "manifests")):
                yield f"{where}.manifests[{number}]", path
    for name, member in (("metadata-log", "metadata-file"), ("statistics", "statistics-path"), ("partition-statistics", "statistics-path")):
        yield from ((f"{where}.{member}", item.get(member)) for where, item in _objects(document, name))


# --- Delta Lake ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeltaRule(ContentRule):
    """A commit names the commit before it, and the data files, change files and deletion vectors that it adds; what it
    removes may be gone. `_last_checkpoint` names the files of its checkpoint."""

    source: Source

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        name = DELTA_NAMES.fullmatch(self.source.below(key))
        if name is None:
            raise InvalidManifest("is no JSON file of a Delta log")
        data = unpack(content, content_encoding)
        if name[3]:
            return _while_kept(self._checkpoint(name[1], _object(parse(data), "the pointer")))
        return _while_kept(self._actions(name[1], int(name[2] or 0), data))

    def _actions(self, log: str, number: int, data: bytes) -> Iterator[Reference]:
        if number > 0:
            yield Reference(self.source.prefix + f"{log}{number - 1:020d}.json", "manifest")
        table = log.removesuffix("_delta_log/")
        for line, action in parse_lines(data):
            _object(action, f"line {line}")
            for kind in ("add", "cdc"):
                yield from self._file(table, _optional(action, kind, dict, None), f"line {line}: {kind}")
            if (sidecar := _optional(action, "sidecar", dict, None)) is not None:
                yield self._sidecar(log, sidecar, f"line {line}: sidecar")

    def _file(self, table: str, action: dict[str, Any] | None, where: str) -> Iterator[Reference]:
        if action is None:
            return
        yield _reference(f"{where}.path", action.get("path"), lambda path: self._key(table, path))
        vector = _optional(action, "deletionVector", dict, None)
        if vector is None or vector.get("storageType") == "i":
            return
        forms: dict[Any, Callable[[str], str]] = {
            "u": lambda name: self.source.key(table + _vector_path(name)),
            "p": lambda path: self._key(table, path),
        }
        storage = vector.get("storageType")
        if not isinstance(storage, str) or storage not in forms:
            raise InvalidManifest(f"{where}.deletionVector has the storageType {shown(storage)}, which is not one of u, p, i")
        yield _reference(f"{where}.deletionVector.pathOrInlineDv", vector.get("pathOrInlineDv"), forms[storage])

    def _key(self, table: str, path: str) -> str:
        """Of a path as actions have it: percent-encoded, a URI or relative to the table."""
        if (full := self.source.of_uri(path)) is not None:
            return self.source.checked(_decoded(full))
        if path.startswith("/") or is_uri(path):
            raise ValueError(f"{shown(path)} is neither relative to the table nor in an object store")
        return self.source.key(table + _decoded(path))

    def _sidecar(self, log: str, sidecar: dict[str, Any], where: str) -> Reference:
        """Sidecars always stand in the log's own directory of them, however their path is written."""
        return _reference(
            f"{where}.path", sidecar.get("path"), lambda path: self.source.key(f"{log}_sidecars/{_decoded(path).rpartition('/')[2]}")
        )

    def _checkpoint(self, log: str, document: dict[str, Any]) -> Iterator[Reference]:
        version, parts = _count(document, "version", 0, 10**20 - 1), document.get("parts")
        if (v2 := _optional(document, "v2Checkpoint", dict, None)) is not None:
            yield _reference("v2Checkpoint.path", v2.get("path"), lambda name: self.source.key(log + name))
            yield from (self._sidecar(log, item, where) for where, item in _objects(v2, "sidecarFiles"))
        elif parts is None:
            yield Reference(self.source.prefix + f"{log}{version:020d}.checkpoint.parquet")
        else:
            for part in range(1, 1 + (total := _count(document, "parts", 1, _MAX_PARTS))):
                yield Reference(self.source.prefix + f"{log}{version:020d}.checkpoint.{part:010d}.{total:010d}.parquet")


_MAX_PARTS = 100_000
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_VECTOR = re.compile(r"(.*)([0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{20})", re.DOTALL)
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85_TO_B85 = str.maketrans(_Z85, _B85)
"""Delta's base85 is that of ZeroMQ, Python's that of RFC 1924: the same but for the alphabet."""


def _vector_path(name: str) -> str:
    """The file of a deletion vector, relative to the table, from its optional directory and encoded UUID."""
    if not (parts := _VECTOR.fullmatch(name)):
        raise ValueError(f"{shown(name)} does not end in 20 characters of base85")
    identity = uuid.UUID(bytes=base64.b85decode(parts[2].translate(_Z85_TO_B85)))
    return f"{parts[1]}{'/' if parts[1] else ''}deletion_vector_{identity}.bin"


def _decoded(path: str) -> str:
    try:
        if not _BAD_PERCENT.search(path):
            return unquote(path, errors="strict")
    except UnicodeError:
        pass
    raise ValueError(f"{shown(path)} is not percent-encoded UTF-8")


# --- what stands in documents ----------------------------------------------------------------------------------------


def _while_kept(references: Iterator[Reference]) -> tuple[Reference, ...]:
    """Tables write what they name first, and clean up later: old commits name data that a vacuum has removed."""
    return distinct(replace(reference, while_kept=True) for reference in references)


def _reference(where: str, value: Any, key_of: Callable[[str], str]) -> Reference:
    if not isinstance(value, str) or not value:
        raise InvalidManifest(f"{where} is {kind_of(value) if value != '' else 'empty'}, and must be a path")
    try:
        return Reference(key_of(value))
    except ValueError as wrong:
        raise InvalidManifest(f"{where}: {wrong}") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidManifest(f"{where} is {kind_of(value)}, and must be an object")
    return value


def _list(document: dict[str, Any], name: str) -> list[Any]:
    return _optional(document, name, list, [])


def _optional(document: dict[str, Any], name: str, kind: type[Any], default: T) -> T:
    """A member of this type; `default` where it is missing or null."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InvalidManifest(f"{name} is {kind_of(value)}, and must be {kind_of(kind())}")
    return value  # type: ignore[no-any-return]


def _objects(document: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each element of an optional array of objects, and where it stands."""
    for number, item in enumerate(_list(document, name)):
        where = f"{name}[{number}]"
        yield where, _object(item, where)


def _count(document: dict[str, Any], name: str, least: int, most: int) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidManifest(f"{name} is {shown(value)}, and must be a whole number from {least} to {most}")
    return value
