"""How busy the machine of this process is: how late timers ring, and how much of its cores is free."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

TICK_S = 0.02
TICKS = 10
CORES = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Load:
    """What a fifth of a second was like: the mean lateness of timers of the event loop in seconds, and the share of all cores'
    time that nobody used, from 0 to 1; 1 where the system does not tell."""

    late_s: float
    idle: float


async def measure_load() -> Load:
    """Takes a fifth of a second, and a little longer the busier the machine is."""
    before, late_s = _core_times(), await _timer_lateness()
    spare, total = (now - then for now, then in zip(_core_times(), before, strict=True))
    return Load(late_s, spare / total if total else 1.0)


async def _timer_lateness() -> float:
    loop, late_s = asyncio.get_running_loop(), 0.0
    for _ in range(TICKS):
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s += max(0.0, loop.time() - due)
    return late_s / TICKS


def _core_times() -> tuple[int, int]:
    """Idle time and all time of all cores since the system started, in the kernel's ticks (proc(5)); zeros where there is no such file."""
    try:
        user, nice, system, idle, waiting, *others = map(int, CORES.read_text().partition("\n")[0].split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return idle + waiting, user + nice + system + idle + waiting + sum(others)
