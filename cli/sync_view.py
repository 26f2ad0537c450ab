"""What `sync` shows: one live line on a terminal while it runs, and the closing lines, or one JSON document, at its end."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.counts import counted, moved
from cli.output import Output, printable
from cli.sync_pass import Ending
from replication.passes import Counters, PassProgress
from replication.units import format_duration, format_size

MINUTE_S = 59.95
WINDOW_S = 10.0
"""Rates are those of the last seconds."""


class Meter:
    """Rates and the time to go, from what was shown so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int, int]] = deque()
        self._first: tuple[float, int] | None = None
        self._ranges = (0, 0)

    def add(self, progress: PassProgress) -> None:
        now, counters = self._clock(), progress.counters
        self._seen.append((now, counters.bytes_copied, looked_at(counters)))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        self._first = self._first or (now, progress.partitions_done)
        self._ranges = (progress.partitions_done, progress.partitions_open)

    @property
    def bytes_per_s(self) -> float:
        return self._rate(1)

    @property
    def objects_per_s(self) -> float:
        return self._rate(2)

    @property
    def to_go_s(self) -> float | None:
        """None until some of the key ranges are done, and so tell how long the others may take."""
        done, left = self._ranges
        if self._first is None or done <= self._first[1] or not left:
            return None
        return left * (self._clock() - self._first[0]) / (done - self._first[1])

    def _rate(self, index: int) -> float:
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        grown = self._seen[-1][index] - self._seen[0][index]
        return max(0.0, grown / (self._seen[-1][0] - self._seen[0][0]))


class View:
    """`stage` and `show` draw on standard error, if that is a terminal. `last` is what was shown last, `joined` what a pass that was
    joined had done before."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._meter = Meter()
        self._began = time.monotonic()
        self.last: PassProgress | None = None
        self.joined: PassProgress | None = None

    @property
    def is_live(self) -> bool:
        return self._live is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self._live or contextlib.nullcontext():
            yield

    def stage(self, text: str) -> None:
        if self._live is not None:
            self._live.update(Text(text), refresh=True)

    def show(self, progress: PassProgress) -> None:
        self.last = progress
        self._meter.add(progress)
        self.stage(live_text(progress, self._meter))


def live_text(progress: PassProgress, meter: Meter) -> str:
    counters, dry = progress.counters, progress.mode == "plan"
    pieces = [
        f"{counters.listed:,} objects",
        f"{counters.copied + counters.updated:,} {'to copy' if dry else 'copied'} ({format_size(counters.bytes_copied)})",
        f"{format_size(int(meter.bytes_per_s))}/s, {meter.objects_per_s:,.0f} objects/s",
    ]
    if counters.deleted:
        pieces.append(f"{counters.deleted:,} {'to delete' if dry else 'deleted'}")
    if bad := counters.failed + counters.blocked:
        pieces.append(f"{bad:,} failed")
    if progress.state == "running" and meter.to_go_s is not None:
        pieces.append(f"about {format_duration(round(meter.to_go_s))} to go")
    if progress.state != "running":
        pieces.append(f"{progress.state}: {printable(progress.problem or progress.held)}".rstrip(": "))
    return " · ".join(pieces)


def closing_lines(ending: Ending) -> list[str]:
    """How many of what, how much in what time, and what the pass noted."""
    counters, dry = ending.progress.counters, ending.progress.mode == "plan"
    size_bytes = counters.bytes_copied - ending.bytes_before
    here = f", {format_size(size_bytes)} by this run" if ending.bytes_before else ""
    rate = "" if dry or not ending.seconds else f", {format_size(int(size_bytes / ending.seconds))}/s"
    lines = [counted(counters, dry=dry), f"{moved(counters, dry=dry)}{here} in {_took(ending.seconds)}{rate}"]
    return lines + [f"  {printable(note)}" for note in ending.notes]


def _took(seconds: float) -> str:
    """`2.3s`, `15s`; without a fraction from a minute on: `1m1s`."""
    return f"{seconds:.3g}s" if seconds < MINUTE_S else format_duration(round(seconds))


def document(ending: Ending, source: str, destination: str) -> dict[str, Any]:
    """`failed` are all objects that somebody must look at; `failed_alone` leaves the blocked ones out."""
    counters = ending.progress.counters
    return {
        "source": source,
        "destination": destination,
        "mode": ending.progress.mode,
        "state": ending.state,
        "reason": ending.reason,
        **counters.model_dump(),
        "failed": counters.failed + counters.blocked,
        "failed_alone": counters.failed,
        "seconds": round(ending.seconds, 3),
        "notes": list(ending.notes),
    }


def tell(output: Output, ending: Ending, source: str, destination: str) -> None:
    if ending.progress.route:  # else the pass was not seen
        for line in closing_lines(ending):
            output.line(line)
    output.document(document(ending, source, destination))


def looked_at(counters: Counters) -> int:
    """Objects of the source that are settled one way or another."""
    return (
        counters.skipped + counters.kept + counters.copied + counters.updated + counters.waiting + counters.blocked
        + counters.failed + counters.differing
    )  # fmt: skip
