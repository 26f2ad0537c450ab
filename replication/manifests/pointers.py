"""JSON pointers, exactly as RFC 6901 has them; also in their URI form, `#/…`, percent-encoded."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

from replication.manifests.locations import shown

Parts = tuple[str | int, ...]
"""The names and indexes that lead to a value."""

ABSENT: Final = object()
"""What a pointer resolves to where there is nothing; null is something."""

_BAD_ESCAPE = re.compile(r"~(?![01])")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def pointer_steps(pointer: str) -> tuple[str, ...]:
    """The reference tokens; none for the whole document. Raises ValueError for what is no pointer."""
    text = _from_fragment(pointer[1:]) if pointer.startswith("#") else pointer
    if text and not text.startswith("/"):
        raise ValueError("is no JSON pointer: must be empty or start with '/'")
    if _BAD_ESCAPE.search(text):
        raise ValueError("is no JSON pointer: '~' must be written as '~0'")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:])


def _from_fragment(fragment: str) -> str:
    try:
        if not _BAD_PERCENT.search(fragment):
            return unquote(fragment, errors="strict")
    except UnicodeError:
        pass
    raise ValueError("is no JSON pointer: its percent-encoding is broken")


def resolve(document: Any, steps: tuple[str, ...]) -> Any:
    """What the steps lead to, or `ABSENT`."""
    at = document
    for step in steps:
        if isinstance(at, dict) and step in at:
            at = at[step]
        elif isinstance(at, list) and _INDEX.fullmatch(step) and int(step) < len(at):
            at = at[int(step)]
        else:
            return ABSENT
    return at


def where(parts: Parts) -> str:
    """For messages: the place of a value, as a JSON path."""
    steps = (f"[{part}]" if isinstance(part, int) else _step(part) for part in parts)
    return "$" + "".join(steps)


def _step(name: str) -> str:
    return f".{name}" if name.isascii() and name.isidentifier() and len(name) <= 100 else f"[{shown(name)}]"


def is_member(parts: Parts) -> bool:
    """Whether it is a member of an object, and not an element of an array."""
    return bool(parts) and isinstance(parts[-1], str)
