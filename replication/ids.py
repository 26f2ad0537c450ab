"""Every workflow id and copy id of this product is made here.

Route and store names hold no colon, so an id can be taken apart again. Ids are compared byte for byte for ever: what is
readable is a fixed set of code points here, not Python's, which grows with its Unicode tables.
"""

from __future__ import annotations

import hashlib
import re
from random import Random
from typing import NamedTuple

MAX_ID_BYTES = 200
"""Temporal's own limit is 1,000; ids also stand in logs, metrics of the server and database indexes."""
HOUSEKEEPING_ID = "housekeeping"

_HASHED = "sha256~"
_UNREADABLE = re.compile(
    "[\0-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb\ud800-\udfff]|^ | $"
)
"""Controls, white space other than inner plain spaces, invisible and direction-changing characters, lone surrogates."""


class ObjectId(NamedTuple):
    """What an object workflow's id says. `key` is None where the id holds only the key's hash."""

    route: str
    key: str | None


def object_workflow_id(route: str, key: str) -> str:
    """`object:{route}:{key}`, or with `sha256~` and 32 hex digits for a key that is long or unreadable. At most 200 bytes."""
    if not key.startswith(_HASHED) and not _UNREADABLE.search(key):
        readable = f"object:{route}:{key}"
        if len(readable.encode()) <= MAX_ID_BYTES:
            return readable
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"object:{route}:{_HASHED}{digest}"


def object_of_id(workflow_id: str) -> ObjectId | None:
    """The route and, if it is readable, the key of an object workflow's id; None for another kind of id."""
    kind, _, rest = workflow_id.partition(":")
    route, colon, key = rest.partition(":")
    if kind != "object" or not colon or not route:
        return None
    return ObjectId(route, None if key.startswith(_HASHED) else key)


def deletions_id(route: str) -> str:
    return f"deletions:{route}"


def pass_workflow_id(mode: str, route: str) -> str:
    """The one id under which a pass of that mode runs: two of a route never run at once."""
    return {"repair": reconcile_id, "plan": plan_id, "verify": verify_id}[mode](route)


def pass_schedule_id(mode: str, route: str) -> str:
    """The Temporal Schedule of a route's passes; what it starts is named after it and the time, and runs under the one id."""
    return pass_workflow_id(mode, route)


def plan_id(route: str) -> str:
    return f"plan:{route}"


def reconcile_id(route: str) -> str:
    return f"reconcile:{route}"


def partition_id(mode: str, route: str, number: int) -> str:
    return f"{pass_workflow_id(mode, route)}:{number}"


def verify_id(route: str) -> str:
    return f"verify:{route}"


def new_copy_id(random: Random) -> str:
    """16 hex digits that name one plan to copy one object."""
    return f"{random.getrandbits(64):016x}"
