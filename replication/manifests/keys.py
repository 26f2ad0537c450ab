"""From a name in a manifest to a key of the route's source bucket. Nothing is normalised: what is odd is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replication.errors import InvalidManifest
from replication.keys import key_problem
from replication.manifests.documents import MAX_REFERENCES
from replication.manifests.references import Exists, Reference

_URI = re.compile(r"(?:s3|s3a|s3n|gs)://([^/]+)/(.+)", re.DOTALL)
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Base:
    """Where the names of a route's manifests lead: the source's bucket, and the prefix that relative names stand below."""

    bucket: str
    prefix: str

    def below(self, key: str) -> str:
        """The part of a full key that rules look at."""
        return key[len(self.prefix) :]

    def key(self, name: str) -> str:
        """The full key of a name below the prefix, or of a URI of the source's bucket. Raises `InvalidManifest`."""
        if "://" in name[:8]:
            return checked(self._of_uri(name))
        return checked(self.prefix + name, relative=name)

    def _of_uri(self, uri: str) -> str:
        match = _URI.fullmatch(uri)
        if match is None or match[1] != self.bucket:
            raise InvalidManifest(f"a reference leads out of bucket {self.bucket}: {_shown(uri)}")
        return match[2]


def checked(key: str, *, relative: str | None = None) -> str:
    """Returns `key`, or raises `InvalidManifest` for one that no object of a sound manifest has."""
    name = key if relative is None else relative
    if not name:
        raise InvalidManifest("a reference is empty")
    if any(segment in (".", "..") for segment in name.split("/")):
        raise InvalidManifest(f"a reference climbs through the folders: {_shown(name)}")
    if problem := key_problem(key):
        raise InvalidManifest(f"a reference is no key ({problem}): {_shown(name)}")
    return key


def filled(template: str, value: Any, folder: str) -> str:
    """The template with its `{fields}` filled from a referenced value. Raises `InvalidManifest` for one that is not there."""

    def fill(match: re.Match[str]) -> str:
        field = match[1]
        if field == "dir":
            return folder
        found = value.get(field) if isinstance(value, Mapping) else (value if field == "value" else None)
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise InvalidManifest(f"a reference has no {field} of text or number")
        return str(found)

    return _FIELD.sub(fill, template)


def check_template(template: str) -> str:
    """Returns a sound template, or raises ValueError."""
    if "{" in _FIELD.sub("", template) or "}" in _FIELD.sub("", template):
        raise ValueError("has a brace without its other one")
    if not _FIELD.search(template) or _FIELD.findall(template) == ["dir"]:
        raise ValueError("names the same object for every reference: write a {field} of the reference, or {value}")
    if "" in _FIELD.findall(template):
        raise ValueError("has an empty {}")
    return template


def unique(keys: Iterable[str], exists: Exists) -> tuple[Reference, ...]:
    """References to each key once, in order. Raises `InvalidManifest` for more than `MAX_REFERENCES`."""
    found: dict[str, None] = {}
    for key in keys:
        found[key] = None
        if len(found) > MAX_REFERENCES:
            raise InvalidManifest(f"the manifest has more than {MAX_REFERENCES} references")
    return tuple(Reference(key, exists) for key in found)


def folder_of(name: str) -> str:
    """The part of a name up to its last slash, which it includes; "" where there is none."""
    return name[: name.rfind("/") + 1]


def member(value: Any, name: str, kind: type, where: str) -> Any:
    """`value[name]` of that type. Raises `InvalidManifest`, saying where."""
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise InvalidManifest(f"{where} has no {name} of type {kind.__name__}")
    return found


def _shown(text: str) -> str:
    return repr(text[:200])
