"""Objects summed up by prefix, as they come in the order of their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field


@dataclass
class Summary:
    """The objects whose keys begin with `prefix`, and with no deeper one that has a summary of its own."""

    prefix: str
    states: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    """Of those in sync."""


def folder_of(key: str, base: str, depth: int) -> str:
    """`base` and at most `depth` of the key's folders behind it: `a/b/c/d` is in `a/b/` at depth 2, and `x` in ``."""
    end = len(base)
    for _ in range(depth):
        slash = key.find("/", end)
        if slash < 0:
            break
        end = slash + 1
    return key[:end]


async def summed_up(objects: AsyncIterable[tuple[str, str, int]], base: str, depth: int) -> AsyncIterator[Summary]:
    """One summary for each folder that holds any of the `objects` (key, state, bytes), whose keys come in byte order and begin with
    `base`. Each is told when the last key below it has come, so at most `depth` + 1 are held at once."""
    held: list[Summary] = []
    async for key, state, size_bytes in objects:
        folder = folder_of(key, base, depth)
        while held and not folder.startswith(held[-1].prefix):
            yield held.pop()
        if not held or held[-1].prefix != folder:
            held.append(Summary(folder))
        held[-1].states[state] += 1
        held[-1].size_bytes += size_bytes
    while held:
        yield held.pop()
