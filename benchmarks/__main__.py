"""`python -m benchmarks [--rounds N] [--write]`: the peers side by side, in one run, on the same servers."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from pathlib import Path

from benchmarks.events import events
from benchmarks.lab import BenchLab, bench_lab
from benchmarks.objects import Row, objects

TABLE = Path(__file__).parent.parent / "docs" / "BENCHMARKS.md"
HEADING = "| case | program | wall | rate | CPU | peak memory | time of this / time of drayage |\n|---|---|---|---|---|---|---|"


def table(rows: list[Row]) -> str:
    """Markdown. CPU and memory are those of the program (for drayage and no-op: of the worker), not of the servers."""
    lines = [HEADING]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cpu = f"{row.cpu_s:.2f} s" if row.cpu_s else ""
        lines.append(f"| {row.case} | {row.program} | {row.wall_s:.2f} s | {row.rate} | {cpu} | {row.peak_mib:.0f} MiB | {ratio} |")
    return "\n".join(lines)


async def _rows(lab: BenchLab, rounds: int) -> list[Row]:
    return await objects(lab, rounds=rounds) + await events(lab)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs of each program (default: 3)")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/BENCHMARKS.md")
    options = parser.parse_args()
    with bench_lab() as lab:
        rows = asyncio.run(_rows(lab, options.rounds))
    print(table(rows))
    if options.write:
        text = TABLE.read_text()
        start, end = "<!-- table -->", "<!-- end of table -->"
        before, after = text.partition(start)[0], text.partition(end)[2]
        command = f"`python -m benchmarks --rounds {options.rounds} --write` on {platform.machine()}, {platform.python_version()}"
        TABLE.write_text(f"{before}{start}\n{command}\n\n{table(rows)}\n{end}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
