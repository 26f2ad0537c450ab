"""Copies of which this process does not know whether they were committed: their answers were lost, and the looks after them."""

from __future__ import annotations

from activities.plans import SmallPlan
from replication.models import CopyPlan, Version

MOST = 10_000
"""Those that are older are forgotten."""


class Unsure:
    """The last such copy of each key, until a look has told. It keeps its id, so that another try at it is known by the same mark."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, str], CopyPlan | SmallPlan] = {}

    def keep(self, route: str, key: str, plan: CopyPlan | SmallPlan) -> None:
        self._plans[route, key] = plan
        if len(self._plans) > MOST:
            del self._plans[next(iter(self._plans))]

    def forget(self, route: str, key: str) -> None:
        self._plans.pop((route, key), None)

    def copy_of(self, route: str, key: str, source: Version) -> CopyPlan | SmallPlan | None:
        """That of exactly this version of the source."""
        plan = self._plans.get((route, key))
        return plan if plan is not None and plan.source.token == source.token else None

    def __contains__(self, place: tuple[str, str]) -> bool:
        return place in self._plans
