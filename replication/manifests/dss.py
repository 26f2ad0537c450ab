"""The manifests of the HCA Data Store: blobs, files, bundles and collections, told apart by their keys.

The layout is that of HumanCellAtlas/data-store, `dss/storage/identifiers.py`; what each manifest names, that of
`dss/events/handlers/sync.py` and `dss/api/collections.py` there. UUIDs and checksums are lower-case in keys, and may be
written otherwise in manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from replication.errors import InvalidManifest, UnknownKind
from replication.manifests.documents import load, parse
from replication.manifests.locations import Source, distinct, kind_of, shown
from replication.manifests.pointers import ABSENT, pointer_steps, resolve
from replication.manifests.references import Reference
from replication.manifests.rule import ContentRule, Rule

Kind = Literal["files", "bundles", "collections"]

_UUID = "[a-z0-9]{8}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{12}"
_MANIFEST = re.compile(rf"(files|bundles|collections)/{_UUID}\.[^/]+")
_TOMBSTONE = ".dead"
_BLOBS = "blobs/"
_CHECKSUMS = {
    "sha256": re.compile("[a-z0-9]{64}"),
    "sha1": re.compile("[a-z0-9]{40}"),
    "s3-etag": re.compile("[a-z0-9]{32}(-[0-9]{1,5})?"),
    "crc32c": re.compile("[a-z0-9]{8}"),
}
"""The members of a file manifest that make its blob's key, in their order there."""


@dataclass(frozen=True, slots=True)
class DssRule(ContentRule):
    """The rule of one kind of manifest."""

    source: Source
    kind: Kind

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        document = _object(load(content, content_encoding), "the manifest")
        named = {"files": self._of_file, "bundles": self._of_bundle, "collections": self._of_collection}[self.kind]
        return distinct(named(document))

    def _of_file(self, document: dict[str, Any]) -> Iterator[Reference]:
        yield Reference(self.source.prefix + _blob_key(document))

    def _of_bundle(self, document: dict[str, Any]) -> Iterator[Reference]:
        for number, item in enumerate(_array(document, "files")):
            yield self._manifest("files", item, f"files[{number}]")

    def _of_collection(self, document: dict[str, Any]) -> Iterator[Reference]:
        for number, item in enumerate(_array(document, "contents")):
            where = f"contents[{number}]"
            match _text(_object(item, where), "type", where):
                case "file" | "bundle" | "collection" as entity:
                    yield self._manifest(f"{entity}s", item, where)
                case _:
                    yield self._manifest("files", item, where, _fragment(item, where))

    def _manifest(self, kind: str, item: Any, where: str, pointer: str | None = None) -> Reference:
        item = _object(item, where)
        below = f"{kind}/{_text(item, 'uuid', where).lower()}.{_text(item, 'version', where)}"
        if not _MANIFEST.fullmatch(below) or below.endswith(_TOMBSTONE):
            raise InvalidManifest(f"{where}: {shown(below)} is no key of a manifest")
        try:
            return Reference(self.source.key(below), "manifest", pointer)
        except ValueError as wrong:
            raise InvalidManifest(f"{where}: {wrong}") from None


@dataclass(frozen=True, slots=True)
class DssRules:
    """Which rule is a key's."""

    files: DssRule
    bundles: DssRule
    collections: DssRule

    def claim(self, below: str) -> Rule | None:
        """The rule of a key below the prefix; None for blobs and tombstones. Raises `UnknownKind` for anything else."""
        if below.startswith(_BLOBS) or below.endswith(_TOMBSTONE):
            return None
        match (named := _MANIFEST.fullmatch(below)) and named[1]:
            case "files":
                return self.files
            case "bundles":
                return self.bundles
            case "collections":
                return self.collections
        raise UnknownKind(f"{shown(below)} is no blob, file, bundle, collection or tombstone of the data store")


def dss_rules(source: Source) -> DssRules:
    return DssRules(DssRule(source, "files"), DssRule(source, "bundles"), DssRule(source, "collections"))


def blob_key_of(file_manifest: bytes) -> str:
    """The key, below the route's prefix, of the blob that a file manifest describes. Raises `InvalidManifest`."""
    return _blob_key(_object(parse(file_manifest), "the manifest"))


def pointer_resolves(document: bytes, pointer: str) -> bool:
    """Whether the JSON pointer leads to something, which may be null. Nothing can be found in what is no JSON."""
    try:
        return resolve(parse(document), pointer_steps(pointer)) is not ABSENT
    except (InvalidManifest, ValueError):
        return False


def _blob_key(document: dict[str, Any]) -> str:
    return _BLOBS + ".".join(_checksum(document, name, pattern) for name, pattern in _CHECKSUMS.items())


def _checksum(document: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = _text(document, name, "the manifest").lower()
    if not pattern.fullmatch(value):
        raise InvalidManifest(f"{name}: {shown(value)} has not the form of one")
    return value


def _fragment(item: dict[str, Any], where: str) -> str:
    fragment = _text(item, "fragment", where, empty=True)
    try:
        pointer_steps(fragment)
    except ValueError as wrong:
        raise InvalidManifest(f"{where}.fragment {wrong}") from None
    return fragment


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidManifest(f"{where} is {kind_of(value)}, and must be an object")
    return value


def _array(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise InvalidManifest(f"{name} is {kind_of(value) if name in document else 'missing'}, and must be an array")
    return value


def _text(item: dict[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or (not value and not empty):
        found = "missing" if name not in item else "empty" if value == "" else kind_of(value)
        raise InvalidManifest(f"{where}: {name} is {found}, and must be text")
    return value
