"""JSON pointers (RFC 6901)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

_INDEX = re.compile(r"0|[1-9][0-9]*")
_ESCAPE = re.compile(r"~(?![01])")


class Unresolved(LookupError):
    """The pointer names nothing in this document."""


def check_pointer(pointer: str) -> str:
    """Returns a well-formed pointer, or raises ValueError."""
    if pointer and not pointer.startswith("/"):
        raise ValueError("is no JSON pointer: one starts with a slash")
    if _ESCAPE.search(pointer):
        raise ValueError("is no JSON pointer: ~ is written ~0, and a slash in a name ~1")
    return pointer


def plain(pointer: str) -> str:
    """The pointer of its URI fragment form (`#/a%20b`), or itself."""
    return unquote(pointer[1:]) if pointer.startswith("#") else pointer


def resolve(document: Any, pointer: str) -> Any:
    """What the pointer names. Raises `Unresolved`, and ValueError for what is no pointer."""
    found = document
    for token in check_pointer(pointer).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and _INDEX.fullmatch(name) and int(name) < len(found):
            found = found[int(name)]
        else:
            raise Unresolved(pointer)
    return found
