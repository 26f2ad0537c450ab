"""What an answer to a media request must look like before a byte of it is believed."""

from __future__ import annotations

from collections.abc import Mapping

from replication.errors import IntegrityMismatch, SourceChanged
from replication.models import Version


def check_media(status: int, headers: Mapping[str, str], pin: Version, offset: int, length: int) -> None:
    """Raises `SourceChanged` for another generation, `IntegrityMismatch` unless exactly the asked bytes, as stored, follow."""
    generation = headers.get("X-Goog-Generation", pin.id)
    if generation != pin.id:
        raise SourceChanged(f"generation {generation} was answered for {pin.id}")
    if problem := _problem(status, headers, pin.size_bytes, offset, length):
        raise IntegrityMismatch(problem)


def _problem(status: int, headers: Mapping[str, str], size_bytes: int, offset: int, length: int) -> str | None:
    stored, sent = headers.get("X-Goog-Stored-Content-Encoding"), headers.get("Content-Encoding", "identity")
    if stored is not None and (stored == "gzip") != (sent == "gzip"):
        return f"the object is stored as {stored or 'identity'} and was answered as {sent}"
    if length == size_bytes:
        if status != 200:
            return f"status {status} for the whole object"
    else:
        expected = f"bytes {offset}-{offset + length - 1}/{size_bytes}"
        if status != 206 or headers.get("Content-Range") != expected:
            return f"status {status}, Content-Range {headers.get('Content-Range')!r} instead of 206, {expected!r}"
    announced = headers.get("Content-Length", str(length))
    return None if announced == str(length) else f"{announced} bytes announced, {length} asked for"
