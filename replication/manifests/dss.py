"""The data store's layout: a collection names items, a bundle names files, a file manifest names one blob.

Blobs are named by their content, so a reference to one can never mean another. Keys that end in `dead` are tombstones
and wait for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from replication.errors import InvalidManifest, UnknownKind
from replication.manifests.documents import MAX_REFERENCES, load_json
from replication.manifests.keys import Base, member
from replication.manifests.pointers import Unresolved, check_pointer, plain, resolve
from replication.manifests.references import Reference

_BLOB_PARTS = ("sha256", "sha1", "s3-etag", "crc32c")
_KEY = re.compile(r"(files|bundles|collections)/[^/]+\.[^/]+", re.DOTALL)
_KINDS = {"file": "files", "bundle": "bundles", "collection": "collections"}
_TOMBSTONE = "dead"


@dataclass(frozen=True, slots=True)
class DssRule:
    """Manifests of one kind: `files`, `bundles` or `collections`."""

    base: Base
    kind: str
    reads: Literal["content", "siblings"] = "content"

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        document = load_json(content, content_encoding)
        match self.kind:
            case "files":
                found: Iterator[Reference] = iter([Reference(self.base.key(_blob_name(document)))])
            case "bundles":
                found = (
                    self._manifest("files", item, f"files[{n}]") for n, item in enumerate(member(document, "files", list, "the bundle"))
                )
            case _:
                items = member(document, "contents", list, "the collection")
                found = (self._item(item, f"contents[{n}]") for n, item in enumerate(items))
        return _unique(found)

    def siblings(self, key: str) -> str:
        raise AssertionError("the manifests of this layout have content")

    def _manifest(self, folder: str, item: Any, where: str) -> Reference:
        name = f"{folder}/{member(item, 'uuid', str, where)}.{member(item, 'version', str, where)}"
        return Reference(self.base.key(name), "manifest")

    def _item(self, item: Any, where: str) -> Reference:
        folder = _KINDS.get(member(item, "type", str, where))
        if folder is not None:
            return self._manifest(folder, item, where)
        pointer = plain(member(item, "fragment", str, where))
        try:
            check_pointer(pointer)
        except ValueError as error:
            raise InvalidManifest(f"{where}.fragment {error}") from None
        return Reference(self._manifest("files", item, where).key, "manifest", pointer)


def dss_rule(base: Base, name: str) -> DssRule | None:
    """The rule of a name below the route's prefix; None for blobs and tombstones. Raises `UnknownKind`."""
    if name.startswith("blobs/") or name.endswith(_TOMBSTONE):
        return None
    match = _KEY.fullmatch(name)
    if match is None:
        raise UnknownKind("the key is no blob, file, bundle or collection, so what it waits for is not known")
    return DssRule(base, match[1])


def blob_key_of(file_manifest: bytes) -> str:
    """The name, below the prefix, of the blob that a file manifest names. Raises `InvalidManifest`."""
    return _blob_name(load_json(file_manifest))


def pointer_resolves(document: bytes, pointer: str) -> bool:
    """Whether a JSON document holds what the pointer names; one that is no JSON document holds nothing."""
    try:
        resolve(load_json(document), pointer)
    except (InvalidManifest, Unresolved):
        return False
    return True


def _blob_name(document: Any) -> str:
    parts = [member(document, part, str, "the file manifest") for part in _BLOB_PARTS]
    return "blobs/" + ".".join(parts).lower()


def _unique(references: Iterator[Reference]) -> tuple[Reference, ...]:
    found: dict[Reference, None] = {}
    for reference in references:
        found[reference] = None
        if len(found) > MAX_REFERENCES:
            raise InvalidManifest(f"the manifest has more than {MAX_REFERENCES} references")
    return tuple(found)
