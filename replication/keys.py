"""What a key may be, and which keys are ours and never replicate."""

from __future__ import annotations

from replication.errors import KeyInvalid

MAX_KEY_BYTES = 1024
RESERVED_PREFIX = ".drayage/"
"""Temporary parts and probe objects of every store stand under this prefix of their bucket."""
PROBE_PREFIX = f"{RESERVED_PREFIX}probe/"
PROBE_ENDS_S = 3600.0
"""A probe lasts seconds: what stands under its prefix for longer was left by one that was killed."""
RESERVED_NAME = ".drayage."
"""Path components of a file store that start so are temporary files or sidecars."""


def key_problem(key: str) -> str | None:
    """Why no store can hold `key`, or None: empty, over 1,024 bytes of UTF-8, not UTF-8, or holding NUL."""
    if not key:
        return "the key is empty"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "the key is not valid UTF-8"
    if len(encoded) > MAX_KEY_BYTES:
        return f"the key has {len(encoded)} bytes, the limit is {MAX_KEY_BYTES}"
    if "\0" in key:
        return "the key holds a NUL character"
    return None


def check_key(key: str) -> None:
    """Raises `KeyInvalid` for a key that no store can hold."""
    if problem := key_problem(key):
        raise KeyInvalid(problem)


def is_reserved(key: str) -> bool:
    """True for this product's own temporary and probe objects."""
    return key.startswith(RESERVED_PREFIX)
