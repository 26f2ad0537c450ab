"""One HTTP/1.1 answer, read from bytes as they come: strict about its framing, bounded in memory, without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from replication.errors import ServerFault
from stores.chunks import Chunk

MAX_HEAD = 64 * 1024
BODILESS = frozenset({204, 304})
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Headers(Mapping[str, str]):
    """Header fields by lower-case name, asked for in any case; of a field that comes twice, the first."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        return self._fields.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class AnswerReader:
    """Takes the bytes of one answer to a request of `method`, with a body of at most `max_body` bytes.

    A header that is not UTF-8 is read as ISO 8859-1. `keeps` says whether the connection can carry another request
    afterwards, `began` whether anything came at all.
    """

    __slots__ = (
        "_chunk_ends",
        "_held",
        "_left",
        "_max_body",
        "_method",
        "_pieces",
        "_take",
        "_taken",
        "began",
        "headers",
        "keeps",
        "status",
    )

    def __init__(self, method: str, max_body: int) -> None:
        self._method = method
        self._max_body = max_body
        self._take: Callable[[AnswerReader, Chunk], bool] = AnswerReader._head
        self._held = b""
        self._pieces: list[Chunk] = []
        self._taken = 0
        self._left = 0
        self._chunk_ends = False
        self.began = False
        self.keeps = False
        self.status = 0
        self.headers: Mapping[str, str] = {}

    @property
    def body(self) -> bytes:
        """What has come of it, without what was taken."""
        return bytes(self._pieces[0]) if len(self._pieces) == 1 else b"".join(self._pieces)

    @property
    def has_head(self) -> bool:
        return self._take is not AnswerReader._head

    @property
    def has_more(self) -> bool:
        """Whether anything is there to be taken."""
        return bool(self._pieces)

    def take(self) -> list[Chunk]:
        """What has come of the body since this was asked last."""
        taken, self._pieces = self._pieces, []
        return taken

    def feed(self, data: Chunk) -> bool:
        """True once the answer is whole. Raises `ServerFault`. Pieces of the body may be views of `data`."""
        self.began = True
        return self._take(self, data)

    def end(self) -> bool:
        """The other side closed the connection: True where that is how the answer ends."""
        self.keeps = False
        return self._take is AnswerReader._to_the_end

    # --- the head ----------------------------------------------------------------------------------------------------

    def _head(self, data: Chunk) -> bool:
        held, at = self._held + data, 0
        while True:
            end = held.find(b"\r\n\r\n", at)
            if (len(held) if end < 0 else end) - at > MAX_HEAD:
                raise ServerFault(f"{self._method}: the head of the answer is larger than {MAX_HEAD} bytes")
            if end < 0:
                self._held = held[at:]
                return False
            self._read_head(_text(held[at:end]))
            at = end + 4
            if self.status >= 200:
                break
        self._held = b""
        self._take = self._framing()
        return self._take(self, held[at:])

    def _read_head(self, text: str) -> None:
        first, *lines = text.split("\r\n")
        told = _STATUS.fullmatch(first)
        if told is None or told[2] == "101" or text.count("\n") + text.count("\r") != 2 * len(lines) or "\0" in text:
            raise ServerFault(f"{self._method}: the answer is not HTTP/1.1")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name[0] in " \t" or name[-1] in " \t":
                raise ServerFault(f"{self._method}: a header of the answer is not one")
            name, value = name.lower(), value.strip(" \t")
            if fields.setdefault(name, value) != value and name in ("content-length", "transfer-encoding"):
                raise ServerFault(f"{self._method}: the answer has two of {name}")
        self.status, self.headers = int(told[2]), Headers(fields)
        self.keeps = told[1] == "1" and "close" not in fields.get("connection", "").lower()

    def _framing(self) -> Callable[[AnswerReader, Chunk], bool]:
        if self._method == "HEAD" or self.status in BODILESS:
            return AnswerReader._fixed
        length = self.headers.get("content-length")
        if (coding := self.headers.get("transfer-encoding")) is not None:
            if coding.lower() != "chunked":
                raise ServerFault(f"{self._method}: the answer has the transfer coding {coding[:40]!r}")
            self.keeps = self.keeps and length is None
            return AnswerReader._chunked
        if length is None:
            self.keeps = False
            return AnswerReader._to_the_end
        if not _LENGTH.fullmatch(length):
            raise ServerFault(f"{self._method}: the answer has the length {length[:40]!r}")
        self._left = int(length)
        self._check(self._left)
        return AnswerReader._fixed

    # --- the body ----------------------------------------------------------------------------------------------------

    def _check(self, size: int) -> None:
        if size > self._max_body:
            raise ServerFault(f"{self._method}: the answer is larger than {self._max_body} bytes")

    def _keep(self, data: Chunk) -> None:
        self._taken += len(data)
        self._check(self._taken)
        self._pieces.append(data)

    def _fixed(self, data: Chunk) -> bool:
        if len(data) > self._left:
            data, self.keeps = data[: self._left], False
        self._left -= len(data)
        if data:
            self._pieces.append(data)
        return not self._left

    def _to_the_end(self, data: Chunk) -> bool:
        if data:
            self._keep(data)
        return False

    def _chunked(self, data: Chunk) -> bool:
        """Takes time in proportion to `data`, and keeps it as one piece, however small the chunks are."""
        held, at, pieces = self._held + data, 0, list[bytes]()
        whole = False
        while at < len(held) and not whole:
            if self._left:
                pieces.append(held[at : at + self._left])
                at += len(pieces[-1])
                self._left -= len(pieces[-1])
                self._taken += len(pieces[-1])
                continue
            end = held.find(b"\r\n", at)
            if (len(held) if end < 0 else end) - at > MAX_HEAD:
                raise ServerFault(f"{self._method}: a chunk of the answer has no size")
            if end < 0:
                break
            line, at = held[at:end], end + 2
            if self._chunk_ends:
                self._end_chunk(line)
            else:
                whole = self._start_chunk(line)
        if pieces:
            self._pieces.append(b"".join(pieces))
        if whole:
            self._take, self._held = AnswerReader._trailers, b""
            return self._trailers(held[at:])
        self._held = held[at:]
        return False

    def _start_chunk(self, line: bytes) -> bool:
        """True at the last one, which is empty."""
        told = _CHUNK.fullmatch(line)
        if told is None:
            raise ServerFault(f"{self._method}: a chunk of the answer has no size")
        self._left = int(told[1], 16)
        self._check(self._taken + self._left)
        self._chunk_ends = True
        return not self._left

    def _end_chunk(self, line: bytes) -> None:
        if line:
            raise ServerFault(f"{self._method}: a chunk of the answer is longer than its size")
        self._chunk_ends = False

    def _trailers(self, data: Chunk) -> bool:
        held = self._held + data
        if held.startswith(b"\r\n"):
            self.keeps = self.keeps and len(held) == 2
            return True
        _, found, rest = held.partition(b"\r\n\r\n")
        if len(held) - len(rest) > MAX_HEAD:
            raise ServerFault(f"{self._method}: the trailers of the answer are larger than {MAX_HEAD} bytes")
        self._held = held
        self.keeps = self.keeps and not rest
        return bool(found)


def _text(head: bytes) -> str:
    """Text that can be kept, sent and logged, whatever bytes came."""
    return head.decode() if head.isascii() else "\r\n".join([_line(line) for line in head.split(b"\r\n")])


def _line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")
