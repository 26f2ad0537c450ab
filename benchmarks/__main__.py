"""`python -m benchmarks [--only TABLE] [--rounds N] [--write]`: the peers side by side, in one run, on the same servers."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.events import events
from benchmarks.folders import folders
from benchmarks.lab import BenchLab, bench_lab
from benchmarks.lanes import lanes
from benchmarks.ledger import ledger
from benchmarks.objects import Row, objects
from benchmarks.passes import passes

TABLE = Path(__file__).parent.parent / "docs" / "BENCHMARKS.md"
HEADING = "| case | program | wall | rate | CPU | peak memory | time of this / time of drayage |\n|---|---|---|---|---|---|---|"


def table(rows: list[Row]) -> str:
    """Markdown. CPU and memory are those of the program (for drayage and no-op: of the worker), not of the servers."""
    lines = [HEADING]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        wall, cpu = (f"{seconds:.2f} s" if seconds else "" for seconds in (row.wall_s, row.cpu_s))
        peak = f"{row.peak_mib:.0f} MiB" if row.peak_mib else ""
        lines.append(f"| {row.case} | {row.program} | {wall} | {row.rate} | {cpu} | {peak} | {ratio} |")
    return "\n".join(lines)


CASES: dict[str, Callable[[BenchLab, int], Awaitable[list[Row]]]] = {
    "passes": lambda lab, rounds: passes(lab, rounds=rounds),
    "folders": lambda lab, rounds: folders(lab, rounds=rounds),
    "objects": lambda lab, rounds: objects(lab, rounds=rounds),
    "events": lambda lab, rounds: events(lab),
    "lanes": lambda lab, rounds: lanes(lab),
}
WITHOUT_LAB: dict[str, Callable[[], Awaitable[list[Row]]]] = {"ledger": ledger}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "--rounds", type=int, default=4, help="interleaved runs of each program, for passes, folders and objects (default: 4)"
    )
    parser.add_argument("--only", choices=[*CASES, *WITHOUT_LAB], help="one of the tables (default: all)")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/BENCHMARKS.md")
    options = parser.parse_args()
    for name in [options.only] if options.only else [*CASES, *WITHOUT_LAB]:
        rows = _rows(name, options.rounds)
        print(table(rows))
        if options.write:
            _keep(name, rows, options.rounds)
    return 0


def _rows(name: str, rounds: int) -> list[Row]:
    if name in WITHOUT_LAB:
        return asyncio.run(_awaited(WITHOUT_LAB[name]()))
    with bench_lab() as lab:
        return asyncio.run(_awaited(CASES[name](lab, rounds)))


async def _awaited(rows: Awaitable[list[Row]]) -> list[Row]:
    return await rows


def _keep(name: str, rows: list[Row], rounds: int) -> None:
    text = TABLE.read_text()
    start, end = f"<!-- table of {name} -->", f"<!-- end of {name} -->"
    before, after = text.partition(start)[0], text.partition(end)[2]
    command = f"`python -m benchmarks --only {name} --rounds {rounds} --write` on {platform.machine()}, {platform.python_version()}"
    TABLE.write_text(f"{before}{start}\n{command}\n\n{table(rows)}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
