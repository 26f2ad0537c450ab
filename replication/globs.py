"""Globs over keys: `*` within a segment, `**` across segments, `?` one character, `[a-z]` and `[!a-z]` one of a set.

`**/` also stands for no segment at all, so `**/*.tmp` matches `a.tmp`. Only `**` matches a slash. There is no escape
character, since a key may hold any: `[*]` is a literal star. A pattern matches the whole key or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

_RANGE = re.compile(".-.|.", re.DOTALL)
"""A range of a set, or one member: `-` is a member where it comes first or last."""

SEGMENT, ACROSS, FOLDERS = "[^/]*", ".*", "(?:.*/)?"
_STARS = (SEGMENT, ACROSS, FOLDERS)
"""What `*`, `**` and `**/` become."""


def glob_regex(pattern: str) -> str:
    """The regular expression of `pattern`, to be matched in full with DOTALL. Raises ValueError for a bad pattern."""
    if not pattern:
        raise ValueError("is an empty pattern")
    pieces, at = [], 0
    while at < len(pattern):
        piece, at = _translate(pattern, at)
        pieces.append(piece)
    return "".join(_settled(pieces))


def _settled(pieces: list[str]) -> Iterator[str]:
    """The pieces, where a star and what follows it take the first place that fits if the next star makes up for any later one.

    Trying every place for every star would take a key of 1,024 bytes and five stars for hours."""
    stars = [at for at, piece in enumerate(pieces) if piece in _STARS] + [len(pieces)]
    yield from pieces[: stars[0]]
    for at, following in pairwise(stars):
        star, between = pieces[at], "".join(pieces[at + 1 : following])
        next_star = pieces[following] if following < len(pieces) else ""
        in_segment = star == SEGMENT and "/" not in pieces[at + 1 : following]
        if between and ((next_star == ACROSS and star in (SEGMENT, ACROSS)) or (next_star == SEGMENT and in_segment)):
            yield f"(?>{star}?{between})"
        else:
            yield star + between


def _translate(pattern: str, at: int) -> tuple[str, int]:
    """The regular expression of what stands at `at`, and where the next piece begins."""
    if pattern[at] == "*":
        return _stars(pattern, at)
    if pattern[at] == "?":
        return "[^/]", at + 1
    if pattern[at] == "[":
        return _one_of(pattern, at)
    return re.escape(pattern[at]), at + 1


def _stars(pattern: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    if end - at == 1:
        return SEGMENT, end
    if (at == 0 or pattern[at - 1] == "/") and pattern[end : end + 1] == "/":
        return FOLDERS, end + 1
    return ACROSS, end


def _one_of(pattern: str, at: int) -> tuple[str, int]:
    start = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
    end = pattern.find("]", start + 1)  # a ] that comes first is a member of the set
    if end < 0:
        raise ValueError("has a [ without its ] (write [[] for a literal bracket)")
    members = _RANGE.sub(lambda found: "-".join(map(re.escape, found[0][::2])), pattern[start:end])
    negated = "^" if start == at + 2 else ""
    return f"(?!/)[{negated}{members}]", end + 1


def check_glob(pattern: str) -> str:
    """Returns `pattern`, or raises ValueError saying what is wrong with it."""
    try:
        re.compile(glob_regex(pattern))
    except re.error:
        raise ValueError("has a set [...] that is not in order") from None
    return pattern


def compile_globs(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """One regular expression that matches what any of `patterns` does, or None if there are none."""
    joined = "|".join(f"(?:{glob_regex(pattern)})" for pattern in patterns)
    return re.compile(joined, re.DOTALL) if joined else None
