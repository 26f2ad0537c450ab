"""Scans give way to changes, and to nothing that a pass does itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import worker
from activities.turns import Turns
from tests.e2e.conftest import Sides
from tests.passes.conftest import OpenPass
from tests.passes.test_pairs import LARGE, put_all


async def test_a_process_follows_an_objects_own_workflow_and_not_that_of_a_pass(
    sides: Sides, open_pass: OpenPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float | None] = []

    class Recorded(Turns):
        @contextmanager
        def following(self) -> Iterator[None]:
            with super().following():
                yield
            rates.append(self.per_s)

    monkeypatch.setattr(worker, "Turns", Recorded)
    async with open_pass(sides["s3"], sides["s3b"]) as lab:
        await put_all(sides["s3"], {f"{lab.before}small": b"x", f"{lab.before}large": b"y" * LARGE})
        result = await lab.reconcile()
        assert (result.counters.copied, rates) == (2, [])

        await put_all(sides["s3"], {f"{lab.before}small": b"changed"})
        assert (await lab.replicate(f"{lab.before}small")).outcome == "copied"
    assert rates
    assert rates[-1] is not None, "scans would be paced now"
