"""What a manifest asks for, in the words that the copy engine understands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Exists = Literal["object", "manifest"]
"""`object`: the replica of this key is right. `manifest`: it is, and the key is one that the route's rules know as a
manifest, so that what it names is at the destination too."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One dependency: `key` is the full key in the bucket of the route's source.

    `pointer` (RFC 6901) must resolve in the JSON document that this file manifest's blob holds; None asks for nothing.
    `while_kept`: its writer stores what it names first and may remove it later, so what neither side has is not waited for.
    """

    key: str
    exists: Exists = "object"
    pointer: str | None = None
    while_kept: bool = field(default=False, compare=False)
