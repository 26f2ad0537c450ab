"""Manifests as bytes, read safely: JSON that is bounded before it is parsed, and means the same to every reader.

A document is refused (`InvalidManifest`) when it is larger than `MAX_MANIFEST_BYTES`, as it stands or unpacked; when it is
anything but plain UTF-8; when it is no JSON (RFC 8259), says NaN or Infinity, or has one name twice in an object, so
that readers may disagree; and when it nests deeper, or holds more values, than a parser can take within bounded memory.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from replication.errors import InvalidManifest

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_REFERENCES = 1_400_000
MAX_DEPTH = 64
MAX_VALUES = 6_000_000
"""Members and elements of one document. Parsed, they take up to about 100 bytes each."""

_MAX_MARKS = 4 * MAX_VALUES
"""Brackets, commas and quotes, those within strings included: they are looked through one by one."""
_MAX_MEMBERS = 10_000
"""Of a gzip file. Block-wise gzip makes about one for each 64 KiB."""
_STEP = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NO_ENCODING = ("identity", "aws-chunked")
"""Some stores keep `aws-chunked` as part of the object's Content-Encoding, where it means nothing any more."""

_MARKS = b'"[]{},'
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(code for code in range(256) if code not in _MARKS)
_STRING = re.compile(rb'"[^"]*"')
_LINE = re.compile(r"[^\n]+")


def load(content: bytes, content_encoding: str = "") -> Any:
    """The JSON document of an object with this Content-Encoding. Raises `InvalidManifest`."""
    return parse(unpack(content, content_encoding))


def parse(data: bytes) -> Any:
    """The JSON document in `data`. Raises `InvalidManifest`."""
    return _decode(_decoder(), _text(data))


def parse_lines(data: bytes) -> Iterator[tuple[int, Any]]:
    """The documents of newline-delimited JSON, each with the number of its line from 1; empty lines are left out."""
    text, decoder = _text(data), _decoder()
    number, end = 1, 0
    for line in _LINE.finditer(text):
        number += text.count("\n", end, line.start())
        end = line.start()
        if line[0].strip(" \t\r"):
            yield number, _decode(decoder, line[0], f"line {number}: ")


# --- sizes -----------------------------------------------------------------------------------------------------------


def unpack(content: bytes, content_encoding: str) -> bytes:
    """The object's content without its Content-Encoding, which may be gzip. Raises `InvalidManifest`."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"has more than {MAX_MANIFEST_BYTES} bytes")
    named = (word.strip().lower() for word in content_encoding.split(","))
    encodings = [word for word in named if word and word not in _NO_ENCODING]
    if not encodings:
        return content
    if encodings not in (["gzip"], ["x-gzip"]):
        raise InvalidManifest(f"has the Content-Encoding {content_encoding[:100]!r}: only gzip is read")
    return gunzip(content)


def is_gzip(content: bytes) -> bool:
    """By its first two bytes, which no JSON can start with."""
    return content.startswith(_GZIP_MAGIC)


def gunzip(packed: bytes) -> bytes:
    """Unpacks gzip of one or more members in bounded steps. Raises `InvalidManifest`, also past `MAX_MANIFEST_BYTES`."""
    pieces: list[bytes] = []
    at, room = 0, MAX_MANIFEST_BYTES
    for _ in range(_MAX_MEMBERS):
        at, room = _unpack_member(packed, at, room, pieces)
        if at == len(packed):
            return b"".join(pieces)
    raise InvalidManifest(f"its gzip has more than {_MAX_MEMBERS} members")


def _unpack_member(packed: bytes, at: int, room: int, pieces: list[bytes]) -> tuple[int, int]:
    """Appends what the member that starts `at` holds; where it ends, and how many more bytes there may be."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    while not stream.eof:
        step = packed[at : at + _STEP]
        if not step:
            raise InvalidManifest("its gzip is cut short")
        try:
            piece = stream.decompress(step, room + 1)
        except zlib.error:
            raise InvalidManifest(f"its gzip is damaged near byte {at}") from None
        at, room = at + len(step), room - len(piece)
        if room < 0:
            raise InvalidManifest(f"has more than {MAX_MANIFEST_BYTES} bytes when unpacked")
        pieces.append(piece)
    return at - len(stream.unused_data), room


# --- text ------------------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    """Of a document, or of several on lines, that it is safe to give to the parser."""
    if data.startswith(_BOMS):
        raise InvalidManifest("starts with a byte order mark: must be plain UTF-8")
    if b"\0" in data[:4]:
        raise InvalidManifest("is UTF-16 or UTF-32: must be UTF-8")
    _check_shape(data)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidManifest(f"is not UTF-8 at byte {error.start}") from None


def _check_shape(data: bytes) -> None:
    """Nesting and number of values, counted ahead of the parser. For what is no JSON, any answer will do.

    Dropping pairs of neighbouring quotes drops empty strings, or joins two strings into one: neither changes what
    stands outside of strings.
    """
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    marks = unescaped.translate(_TO_SQUARE, delete=_NO_MARKS).replace(b'""', b"")
    if len(marks) > _MAX_MARKS:
        raise InvalidManifest(f"has more than {_MAX_MARKS} brackets, commas and quotes")
    outside = _STRING.sub(b"", marks)
    if outside.count(b",") + outside.count(b"[") > MAX_VALUES:
        raise InvalidManifest(f"has more than {MAX_VALUES} values")
    if _deeper_than(MAX_DEPTH, outside.replace(b",", b"")):
        raise InvalidManifest(f"is nested deeper than {MAX_DEPTH}")


def _deeper_than(depth: int, brackets: bytes) -> bool:
    """Each round drops the innermost pairs. What does not balance is left to the parser, which refuses it."""
    for _ in range(depth):
        rest = brackets.replace(b"[]", b"")
        if len(rest) in (0, len(brackets)):
            return False
        brackets = rest
    return b"[]" in brackets


# --- JSON ------------------------------------------------------------------------------------------------------------


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _decode(decoder: json.JSONDecoder, text: str, where: str = "") -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidManifest(f"{where}is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise InvalidManifest(f"{where}holds a number too long, or brackets too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidManifest(f"has the name {twice[:100]!r} twice in one object")
    return members


def _no_constant(name: str) -> NoReturn:
    raise InvalidManifest(f"is not JSON: {name}")
