"""The values that JSON paths (RFC 9535, `$…`) and JSON pointers (RFC 6901, `/…`) select.

What a document leaves out names nothing. But where a path goes through a member or an array element that is there, and is
of a type that cannot be gone into, the document is refused: it means to name something, and nobody can say what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replication.manifests.pointers import ABSENT, Parts, pointer_steps, resolve

if TYPE_CHECKING:
    from replication.manifests.queries import Query


@dataclass(frozen=True, slots=True)
class Pointer:
    """A JSON pointer. Since it cannot say "each element", one to an array selects its elements."""

    steps: tuple[str, ...]

    def select(self, document: Any) -> Iterator[tuple[Parts, Any]]:
        """Each value, with what leads to it; none for null."""
        value = resolve(document, self.steps)
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield (*self.steps, index), item
        elif value is not ABSENT and value is not None:
            yield self.steps, value


def compile_path(text: str) -> Query | Pointer:
    """Raises ValueError, saying what is wrong, for a text that is neither a path nor a pointer."""
    if text.startswith("/"):
        return Pointer(pointer_steps(text))
    if not text.startswith("$"):
        raise ValueError("must be a JSON path, which starts with '$', or a JSON pointer, which starts with '/'")
    from replication.manifests.queries import compile_query

    return compile_query(text)


def check_path(text: str) -> str:
    """Returns `text`, or raises ValueError saying what is wrong with it."""
    compile_path(text)
    return text
