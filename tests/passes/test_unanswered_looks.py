"""A copy that is done is on record, whatever the source answers after it."""

from __future__ import annotations

from typing import Any

from replication.errors import Throttled
from replication.models import ANY, Attributes, ObjectInfo
from stores.body import Body
from tests.passes.in_memory import Throttling, bench


class BusyAfterwards(Throttling):
    """Answers the look before a copy, and not the one after it."""

    looks = 0

    async def head(self, *what: Any, **how: Any) -> ObjectInfo:
        self.looks += 1
        if self.looks == 2:
            raise Throttled("slow down")
        return await super().head(*what, **how)


async def test_a_copy_whose_source_does_not_answer_afterwards_is_in_the_audit_trail() -> None:
    async with bench() as made:
        await made.put("k", b"new")
        await made.destination.put("two", "k", Body.of(b"old"), Attributes(), ANY)
        made.source.__class__ = BusyAfterwards
        result = await made.scan()
        assert (result.counters.listed, result.counters.copied) == (1, 1)
        assert [entry.action for entry in await made.ledger.history("r", "k")] == ["copied"]
