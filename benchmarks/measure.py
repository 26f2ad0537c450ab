"""Running a program as a whole process, and reading what a running one has used."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


POLL_S = 0.02
"""How often the peak is read; the kernel's own figure for a finished child counts its parent's pages before exec."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Wall and CPU seconds and the peak resident set of one run, in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run(argv: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Runs a program to its end. Raises `CalledProcessError` with what it printed when it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(list(argv), env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, peak_bytes(process.pid))
            time.sleep(POLL_S)
        _, status, used = waited
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, list(argv), output.read())
    return Usage(wall, used.ru_utime + used.ru_stime, peak)


def turned(programs: Sequence[str], number: int) -> list[str]:
    """The order of a round. In as many rounds as there are programs each is once at every place, and once behind every other:
    servers grow slower as they fill, and what a program leaves in memory and on its way to the disk meets the next one."""
    count = len(programs)
    steps = [-place // 2 if place % 2 == 0 else place // 2 + 1 for place in range(count)]
    return [programs[(number + step) % count] for step in steps]


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_bytes(pid: int) -> int:
    """Largest resident set of a running process so far (or since `reset_peak`)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def reset_peak(pid: int) -> None:
    """Starts the peak anew, where the kernel lets us."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return
