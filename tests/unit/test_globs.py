"""Globs over keys, and what they do with keys that no file system would hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.globs import check_glob, compile_globs


def matches(pattern: str, key: str) -> bool:
    compiled = compile_globs([pattern])
    assert compiled is not None
    return compiled.fullmatch(key) is not None


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.tmp", ["a.tmp", ".tmp"], ["x/a.tmp", "a.tmp2", "a.tmp/"]),
        ("**/*.tmp", ["a.tmp", "x/a.tmp", "x/y/a.tmp", "/a.tmp"], ["a.tmpx"]),
        ("a/**", ["a/", "a/b", "a/b/c", "a/b\nc"], ["a", "b/a/c"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z", "a//z"], ["a/bz", "az"]),
        ("a**z", ["az", "a/b/z", "abz"], ["a", "z"]),
        ("**", ["", "a", "a//b", "a\nb"], []),
        ("?", ["a", "é", "\n"], ["/", "", "ab"]),
        ("[a-c]", ["a", "c"], ["d", "/", ""]),
        ("[!a-c]", ["d", "^"], ["a", "/", ""]),
        ("[]x]", ["]", "x"], ["a"]),
        ("[!]]", ["a"], ["]", "/"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("[*]", ["*"], ["a"]),
        ("[-a]", ["-", "a"], ["b"]),
        ("[a-]", ["-", "a"], ["b"]),
        ("[+--]", ["+", ",", "-"], ["."]),
        ("[a-c-e]", ["b", "-", "e"], ["d"]),
        ("[&&||~~]", ["&", "|", "~"], ["a"]),
        ("a.b+(c)$", ["a.b+(c)$"], ["axb+(c)$"]),
        ("\\*", ["\\", "\\abc"], ["*"]),
        ("/a", ["/a"], ["a"]),
        ("a//b", ["a//b"], ["a/b"]),
    ],
)
def test_patterns_match_what_their_description_says(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [key for key in matching if not matches(pattern, key)] == []
    assert [key for key in others if matches(pattern, key)] == []


@pytest.mark.parametrize("pattern", ["", "[", "a[b", "[]", "[!]", "[z-a]", "[?--]"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|\[|set"):
        check_glob(pattern)


def test_no_patterns_compile_to_nothing() -> None:
    assert compile_globs([]) is None


def plain(pattern: str, key: str) -> bool:
    """Star by star, every place tried."""
    if not pattern:
        return not key
    if pattern[0] != "*":
        return bool(key) and (key[0] == pattern[0] or (pattern[0] == "?" and key[0] != "/")) and plain(pattern[1:], key[1:])
    rest = pattern.lstrip("*")
    across = len(pattern) - len(rest) > 1
    return any(plain(rest, key[at:]) for at in range(len(key) + 1) if across or "/" not in key[:at])


@given(
    st.text(alphabet="ab*?/", max_size=12).filter(lambda pattern: pattern and "**/" not in pattern), st.text(alphabet="ab/", max_size=10)
)
def test_a_pattern_of_many_stars_matches_what_trying_every_place_does(pattern: str, key: str) -> None:
    assert matches(pattern, key) == plain(pattern, key)


@pytest.mark.parametrize("pattern", ["*-*-*-*-*-*.tmp", "**a**a**a**a**a**b", "*[a-]*?-*-**-b"])
def test_no_key_makes_a_pattern_of_many_stars_try_for_ever(pattern: str) -> None:
    for key in ("-" * 1024, "a" * 1024, "a-" * 512):
        assert not matches(pattern, key)


@given(st.text(max_size=40))
def test_a_key_with_its_special_characters_bracketed_matches_itself_only(key: str) -> None:
    pattern = "".join(f"[{char}]" if char in "*?[" else char for char in key)
    if pattern:
        assert matches(pattern, key)
        assert not matches(pattern, key + "x")


@given(st.text(alphabet="ab*?[]!-/^\\&~|.", max_size=12))
def test_every_pattern_is_either_refused_or_compiled(pattern: str) -> None:
    try:
        check_glob(pattern)
    except ValueError:
        return
    assert compile_globs([pattern]) is not None


@given(st.text(alphabet="ab*?/", min_size=1, max_size=10).filter(lambda pattern: "**" not in pattern), st.text(alphabet="ab/", max_size=8))
def test_nothing_but_two_stars_matches_a_slash(pattern: str, key: str) -> None:
    if matches(pattern, key):
        assert key.count("/") == pattern.count("/")
