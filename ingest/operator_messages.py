"""An operator's request on a queue: `{"source_replica": …, "dest_replica": …, "key": …}` copies one key on demand.

The replicas are names of stores. Which buckets they mean is told by the routes between them. The key stands as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingest.dispatch import Target
from ingest.events import OperatorRequest
from replication.routes import Route
from replication.settings import Settings

Replicas = Mapping[tuple[str, str], tuple[Route, ...]]
"""Routes by the names of their two stores."""


@dataclass(frozen=True, slots=True)
class Requested:
    """What a request starts, or the problem that makes it ask for nothing."""

    targets: tuple[Target, ...] = ()
    problem: str = ""


def replicas_of(settings: Settings) -> Replicas:
    found: dict[tuple[str, str], tuple[Route, ...]] = {}
    for route in settings.routes_by_name.values():
        ends = route.source.store, route.destination.store
        found[ends] = (*found.get(ends, ()), route)
    return found


def requested(request: OperatorRequest, replicas: Replicas) -> Requested:
    """The object of every route between the two replicas that takes the key."""
    if request.source == request.destination:
        return Requested(problem="operator-same-replica")
    routes = replicas.get((request.source, request.destination))
    if routes is None:
        return Requested(problem="operator-no-route")
    targets = tuple(Target(route.name, request.key) for route in routes if route.skip_reason(request.key) is None)
    return Requested(targets) if targets else Requested(problem="operator-key-not-replicated")
