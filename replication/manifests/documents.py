"""Reading a manifest's bytes without trusting them: bounded, strict, and one error for everything that is wrong."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, NoReturn

from replication.errors import InvalidManifest

MIB = 1024 * 1024
MAX_MANIFEST_BYTES = 64 * MIB
"""Of the stored object, and of what it unpacks to."""
MAX_REFERENCES = 1_400_000
MAX_DEPTH = 64

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_GZIP = 16 + zlib.MAX_WBITS


def load_text(content: bytes, content_encoding: str) -> str:
    """The text of a manifest as it is stored. Raises `InvalidManifest`."""
    data = _unpacked(content, content_encoding.strip().lower())
    if data.startswith(b"\xef\xbb\xbf"):
        raise InvalidManifest("the manifest starts with a byte order mark")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidManifest(f"the manifest is not UTF-8 (byte {error.start})") from None


def load_json(content: bytes, content_encoding: str = "") -> Any:
    """The manifest as one JSON document. Raises `InvalidManifest`."""
    return parse_json(load_text(content, content_encoding))


def load_lines(content: bytes, content_encoding: str = "") -> list[Any]:
    """The manifest as one JSON document on each line that is not empty. Raises `InvalidManifest`."""
    return [parse_json(line) for line in load_text(content, content_encoding).split("\n") if line.strip()]


def parse_json(text: str) -> Any:
    """Strict JSON: no constants of JavaScript, no name twice in one object, brackets at most `MAX_DEPTH` deep."""
    if _is_deep(text):
        raise InvalidManifest(f"brackets are nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InvalidManifest(f"the manifest is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise InvalidManifest("the manifest is not JSON: a number has too many digits") from None


def _unpacked(content: bytes, encoding: str) -> bytes:
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"the manifest has {len(content)} bytes, more than {MAX_MANIFEST_BYTES}")
    if encoding in ("", "identity"):
        return content
    if encoding != "gzip":
        raise InvalidManifest(f"the manifest's content encoding is not gzip: {encoding[:40]}")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        data = unpacker.decompress(content, MAX_MANIFEST_BYTES + 1)
    except zlib.error:
        raise InvalidManifest("the manifest's content encoding is gzip, and its bytes are not") from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"the manifest unpacks to more than {MAX_MANIFEST_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidManifest("the manifest's gzip stream is cut off, or something follows it")
    return data


def _is_deep(text: str) -> bool:
    """Counted ahead of the parser, which recurses."""
    depth = 0
    for bracket in _NO_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _no_constant(name: str) -> NoReturn:
    raise InvalidManifest(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidManifest("a JSON object has the same name twice, so that readers may disagree")
    return found
