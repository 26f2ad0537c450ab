"""Templates that make a key of what a manifest holds: `data/{value}`, `{dir}{value}`, `blobs/{sha256}.{s3-etag}`.

`{value}` is a text or number that stands in the manifest; any other name is a member of an object there; `{dir}` is the
directory of the manifest's own key below the route's prefix, with its trailing slash, or empty. `{{` and `}}` are braces.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from replication.keys import key_problem
from replication.manifests.locations import has_dots, kind_of, shown

_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_VALUE, _DIR = "value", "dir"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template. `of_members`: it takes an object apart, instead of a text or number."""

    pieces: tuple[str | _Field, ...]
    of_members: bool

    def render(self, value: Any, directory: str) -> str:
        """The text for one value of a manifest. Raises ValueError for one that does not fit."""
        if self.of_members != isinstance(value, dict):
            wanted = "an object with the members of the template" if self.of_members else "text or a number"
            raise ValueError(f"is {kind_of(value)}, and must be {wanted}")
        return "".join([piece if isinstance(piece, str) else self._fill(piece.name, value, directory) for piece in self.pieces])

    def _fill(self, name: str, value: Any, directory: str) -> str:
        if name == _DIR:
            return directory
        if not self.of_members:
            return _plain(value)
        if name not in value:
            raise ValueError(f"has no member {shown(name)}")
        try:
            return _plain(value[name])
        except ValueError as wrong:
            raise ValueError(f"its member {shown(name)} {wrong}") from None


def _plain(value: Any) -> str:
    if isinstance(value, str):
        if not value:
            raise ValueError("is empty, and names nothing")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {kind_of(value)}, and must be text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is a number too large")
    return str(value)


def compile_template(text: str) -> Template:
    """Raises ValueError, saying what is wrong, for a template that can make no key, or but one."""
    pieces = tuple(_piece(token) for token in _TOKEN.findall(text))
    names = {piece.name for piece in pieces if isinstance(piece, _Field)} - {_DIR}
    if not names:
        raise ValueError("holds nothing of the reference: write {value}, or {name} for a member of an object")
    if _VALUE in names and len(names) > 1:
        raise ValueError("holds both {value}, of a text or number, and {" + min(names - {_VALUE}) + "}, of an object")
    _check_example("".join(piece if isinstance(piece, str) else "" if piece.name == _DIR else "x" for piece in pieces))
    return Template(pieces, _VALUE not in names)


def _piece(text: str) -> str | _Field:
    if text in ("{{", "}}"):
        return text[0]
    if text in ("{", "}"):
        raise ValueError(f"has a {text} without its other half (write {text}{text} for a literal brace)")
    if text == "{}":
        raise ValueError("has a {} without a name")
    return _Field(text[1:-1]) if text.startswith("{") else text


def _check_example(key: str) -> None:
    if problem := key_problem(key):
        raise ValueError(f"can make no key: {problem}")
    if has_dots(key):
        raise ValueError("has a segment '.' or '..', which no reference may have")


def check_template(text: str) -> str:
    """Returns `text`, or raises ValueError saying what is wrong with it."""
    compile_template(text)
    return text
