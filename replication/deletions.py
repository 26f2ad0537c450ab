"""How many deletions a route may make by itself: a window of counts, and a stop that holds until an operator lifts it."""

from __future__ import annotations

import math

from pydantic import Field

from replication.models import Payload
from replication.route_settings import DeletesSettings

FREE = 10
"""Deletions within a window that no percentage looks at: one of two objects is no mass deletion."""
SHOWN = 20


class Limits(Payload):
    """The route's limits as a request carries them. `window_s` in seconds."""

    max_objects: int
    max_percent: float
    window_s: float

    @classmethod
    def of(cls, settings: DeletesSettings) -> Limits:
        return cls(max_objects=settings.max_objects, max_percent=settings.max_percent, window_s=settings.window)


class Hold(Payload):
    """Why deletions of the route wait, since when (seconds since 1970), how many asked, and the first keys."""

    reason: str
    since: float
    count: int = 0
    first: list[str] = Field(default_factory=list)


class Window(Payload):
    """What was granted lately, as (start of a slice, count): at most 61 slices of a sixtieth of the window.

    `total` is the number of replicas that were counted at `counted_at`, with those granted before; unless `complete`, the
    count was broken off there.
    """

    slices: list[tuple[float, int]] = Field(default_factory=list)
    hold: Hold | None = None
    total: int | None = None
    complete: bool = False
    counted_at: float = 0.0

    def granted(self, now: float, limits: Limits) -> int:
        """Deletions granted within the window that ends now. A slice counts until all of it has left."""
        return sum(count for start, count in self.slices if start + _width(limits) > now - limits.window_s)

    def is_idle(self, now: float, limits: Limits) -> bool:
        return self.hold is None and self.granted(now, limits) == 0


class DeletionsInput(Payload):
    """Input of the workflow `RouteDeletions`; `window` is what a run before it carries over."""

    route: str
    limits: Limits
    window: Window | None = None


class PermitRequest(Payload):
    keys: list[str]
    limits: Limits


class PermitAnswer(Payload):
    """`granted` keys of the request, from the first on; `reason` says why not the others."""

    granted: int
    reason: str = ""


class DeletionsProgress(Payload):
    """Deletions `granted` within the window, of `total` replicas where they were counted; what is held."""

    route: str
    granted: int
    total: int | None = None
    hold: Hold | None = None


class CountInput(Payload):
    route: str
    enough: int


class CountResult(Payload):
    """`listed` replicas; `complete` unless the count stopped at `enough`."""

    listed: int
    complete: bool


def needs_count(window: Window, asked: int, now: float, limits: Limits) -> int:
    """0, or the number of replicas from which on the percentage cannot be exceeded: counting may stop there."""
    wanted = window.granted(now, limits) + asked
    if window.hold is not None or wanted <= FREE or limits.max_percent >= 100:
        return 0
    enough = max(2 * FREE, math.ceil(wanted * 100 / limits.max_percent))
    if window.total is None or now - window.counted_at > limits.window_s:
        return enough
    return 0 if window.complete or window.total >= enough else enough


def counted(window: Window, listed: int, *, complete: bool, now: float, limits: Limits) -> Window:
    """The window with a new count: `listed` replicas stand, those granted lately are gone already."""
    total = listed + window.granted(now, limits)
    return window.model_copy(update={"total": total, "complete": complete, "counted_at": now})


def admit(window: Window, keys: list[str], now: float, limits: Limits) -> tuple[int, Window]:
    """How many of the keys, from the first on, may be deleted; the window after that. Once held, it stays held."""
    if window.hold is not None:
        return 0, window.model_copy(update={"hold": _more(window.hold, keys)})
    before = window.granted(now, limits)
    by_count = limits.max_objects - before
    by_share = _allowed_share(window, limits) - before
    allowed = max(0, min(len(keys), by_count, by_share))
    held = None
    if allowed < len(keys):
        which = f"more than {limits.max_objects}" if by_count <= by_share else f"more than {limits.max_percent:g} % of {window.total}"
        held = _more(Hold(reason=f"{which} deletions within {limits.window_s:g} s", since=now), keys[allowed:])
    return allowed, window.model_copy(update={"slices": _added(window, allowed, now, limits), "hold": held})


def approve(window: Window) -> Window:
    """Lifts the stop and starts the window anew."""
    return window.model_copy(update={"slices": [], "hold": None})


def _allowed_share(window: Window, limits: Limits) -> int:
    if window.total is None or limits.max_percent >= 100:
        return FREE if limits.max_percent < 100 else limits.max_objects
    return max(FREE, math.floor(window.total * limits.max_percent / 100))


def _more(hold: Hold, keys: list[str]) -> Hold:
    first = list(dict.fromkeys([*hold.first, *keys]))[:SHOWN]
    return hold.model_copy(update={"count": hold.count + len(keys), "first": first})


def _added(window: Window, count: int, now: float, limits: Limits) -> list[tuple[float, int]]:
    width = _width(limits)
    start = math.floor(now / width) * width
    kept = {at: number for at, number in window.slices if at + width > now - limits.window_s}
    if count:
        kept[start] = kept.get(start, 0) + count
    return sorted(kept.items())


def _width(limits: Limits) -> float:
    return limits.window_s / 60
