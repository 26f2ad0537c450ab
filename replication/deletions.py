"""How many deletions a route may make by itself: a window of counts, and a stop that holds until an operator lifts it.

Two limits. The number of deletions within the window. And the share of its replicas that the route lost: not deletions, but
how far the number of replicas fell below the highest count of the window, so that objects which come and go all day are
no mass deletion.
"""

from __future__ import annotations

import math

from pydantic import Field

from replication.models import Payload
from replication.route_settings import DeletesSettings

FREE = 10
"""Replicas that a route may always lose within a window: one of two objects is no mass deletion."""
IN_FLIGHT_S = 10.0
"""A permit that is older has been used."""
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

    `peak` is the highest number of replicas that was counted within the window, first at `since`; `left` are the deletions
    that the last count left room for, at `counted_at`; None before the first count. `late` are permits that may not have
    been used yet, as (time, count).
    """

    slices: list[tuple[float, int]] = Field(default_factory=list)
    hold: Hold | None = None
    peak: int | None = None
    since: float = 0.0
    left: int = 0
    counted_at: float = 0.0
    late: list[tuple[float, int]] = Field(default_factory=list)

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


class Count(Payload):
    """`listed` replicas; `complete` unless the count stopped early."""

    listed: int
    complete: bool


class PermitRequest(Payload):
    """Keys to be deleted, and the replicas as they were just counted, where the answer before asked for that."""

    keys: list[str]
    limits: Limits
    count: Count | None = None


class PermitAnswer(Payload):
    """`granted` keys of the request, from the first on; `reason` says why the others are held, and is empty where they
    are to ask again in a moment. With `count`, nothing was decided: count that many replicas, and ask again."""

    granted: int
    reason: str = ""
    count: int = 0


class DeletionsProgress(Payload):
    """Deletions `granted` within the window, the highest number of replicas that was counted in it, what is held."""

    route: str
    granted: int
    peak: int | None = None
    hold: Hold | None = None


def needs_count(window: Window, asked: int, now: float, limits: Limits) -> int:
    """0, or how many replicas are to be counted at most: with so many, the share is no limit."""
    if window.hold is not None or limits.max_percent >= 100:
        return 0
    if window.peak is not None and now - window.since <= limits.window_s and window.left - _unused(window) >= asked:
        return 0
    return FREE + math.ceil(limits.max_objects * 100 / limits.max_percent)


def counted(window: Window, count: Count, now: float, limits: Limits) -> Window:
    """The window after a count. Unless that was complete, there are more replicas than matter."""
    listed = count.listed
    fresh = window.peak is not None and now - window.since <= limits.window_s
    peak = max(listed, window.peak or 0) if fresh else listed
    left = listed - _floor(peak, limits) if count.complete else limits.max_objects
    return window.model_copy(update={"peak": peak, "since": window.since if fresh else now, "left": left, "counted_at": now})


def admit(window: Window, keys: list[str], now: float, limits: Limits) -> tuple[int, Window]:
    """How many of the keys, from the first on, may be deleted; the window after that. Once held, it stays held.

    Permits under way when the replicas were counted may still be in the count: where only they decide, nothing is held
    yet, and the rest is to ask again.
    """
    if window.hold is not None:
        return 0, window.model_copy(update={"hold": _more(window.hold, keys)})
    by_number = limits.max_objects - window.granted(now, limits)
    unused = _unused(window)
    by_share = len(keys) if limits.max_percent >= 100 else window.left - unused
    allowed = max(0, min(len(keys), by_number, by_share))
    rest, hold = keys[allowed:], None
    if rest and by_number <= allowed:
        hold = _more(Hold(reason=f"more than {limits.max_objects} deletions within {limits.window_s:g} s", since=now), rest)
    elif rest and unused == 0:
        hold = _more(Hold(reason=f"more than {limits.max_percent:g} % of {window.peak} replicas", since=now), rest)
    return allowed, _granted(window, allowed, now, limits).model_copy(update={"hold": hold})


def approve(window: Window) -> Window:
    """Lifts the stop; what stands now is counted anew."""
    return Window(late=window.late)


def _unused(window: Window) -> int:
    """Permits that the last count may still have counted as replicas."""
    return sum(count for at, count in window.late if window.counted_at - IN_FLIGHT_S < at < window.counted_at)


def _floor(peak: int, limits: Limits) -> int:
    """Fewer replicas than that are left only when somebody approved."""
    return peak - max(FREE, math.floor(peak * limits.max_percent / 100))


def _more(hold: Hold, keys: list[str]) -> Hold:
    first = list(dict.fromkeys([*hold.first, *keys]))[:SHOWN]
    return hold.model_copy(update={"count": hold.count + len(keys), "first": first})


def _granted(window: Window, count: int, now: float, limits: Limits) -> Window:
    width = _width(limits)
    start = math.floor(now / width) * width
    slices = {at: number for at, number in window.slices if at + width > now - limits.window_s}
    late = {at: number for at, number in window.late if at > now - 2 * IN_FLIGHT_S}
    if count:
        slices[start] = slices.get(start, 0) + count
        late[now] = late.get(now, 0) + count
    return window.model_copy(update={"slices": sorted(slices.items()), "late": sorted(late.items()), "left": window.left - count})


def _width(limits: Limits) -> float:
    return limits.window_s / 60
