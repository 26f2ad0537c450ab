"""What a manifest calls an object, turned into a key of the bucket that the route reads."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replication.errors import InvalidManifest
from replication.keys import key_problem
from replication.manifests.documents import MAX_REFERENCES
from replication.manifests.references import Reference

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SCHEMES = ("s3", "s3a", "s3n", "gs")
_DOTS = re.compile(r"(?:\A|/)\.\.?(?:/|\Z)")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = 100


def shown(value: object) -> str:
    """For messages: short, in one line, and without half characters, whatever a document holds."""
    return _SHORT.repr(value)


def kind_of(value: Any) -> str:
    """What JSON calls a parsed value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    words = {str: "text", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return words[type(value)]


def has_dots(path: str) -> bool:
    """Whether a segment of a path is `.` or `..`, which some readers resolve and a store does not."""
    return "." in path and _DOTS.search(path) is not None


def directory_of(path: str) -> str:
    """All up to and including the last slash; "" without one."""
    return path[: path.rfind("/") + 1]


def is_uri(path: str) -> bool:
    """Whether it starts with a scheme. A file's name can do so too, but no relative path of a URI."""
    return _SCHEME.match(path) is not None


@dataclass(frozen=True, slots=True)
class Source:
    """The place that a route reads. Its methods raise ValueError, saying what is wrong, for what can be no key there."""

    bucket: str
    prefix: str

    def below(self, key: str) -> str:
        """The rest of a key of the route."""
        return key[len(self.prefix) :]

    def key(self, below: str) -> str:
        """The full key of what stands at `below` under the prefix."""
        if not below:
            raise ValueError("is empty, and no key")
        return self.checked(self.prefix + below)

    def checked(self, key: str) -> str:
        """`key`, a full one, which need not belong to the route."""
        if problem := key_problem(key):
            raise ValueError(f"{shown(key)}: {problem}")
        if has_dots(key.removeprefix(self.prefix)):
            raise ValueError(f"{shown(key)} has a segment '.' or '..'")
        return key

    def has_uri(self, text: str) -> bool:
        """Whether `text` is a URI of an object store, of whichever bucket."""
        uri = _URI.match(text)
        return uri is not None and uri[1].lower() in _SCHEMES

    def of_uri(self, text: str) -> str | None:
        """What follows the bucket in `s3://BUCKET/…`, as it stands; None for what is no URI."""
        if "://" not in text or not (uri := _URI.match(text)):
            return None
        if uri[1].lower() not in _SCHEMES:
            raise ValueError(f"{shown(text)} is neither {', '.join(_SCHEMES[:-1])} nor {_SCHEMES[-1]}")
        if uri[2] != self.bucket:
            raise ValueError(f"{shown(text)} is in another bucket than {self.bucket}")
        return text[uri.end(2) + 1 :]


def distinct(references: Iterable[Reference]) -> tuple[Reference, ...]:
    """Each once, in order. Raises `InvalidManifest` for more than `MAX_REFERENCES`."""
    found: dict[Reference, None] = {}
    for reference in references:
        found[reference] = None
        if len(found) > MAX_REFERENCES:
            raise InvalidManifest(f"names more than {MAX_REFERENCES} objects")
    return tuple(found)
