"""Programs that are forked are as those that are started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedded.process import clean_environment
from tests import warm

TELLS = """
import json, os, signal, sys
product = {"replication", "stores", "ledger", "activities", "workflows", "ingest", "cli", "worker", "tests"} & set(sys.modules)
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "folder": os.getcwd(), "variable": os.environ.get("A_VARIABLE"),
    "others": "HOME" in os.environ, "stdin": sys.stdin.read(), "product": sorted(product),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "umask": os.umask(0o22), "group": os.getpgid(0), "signals": [str(signal.getsignal(n)) for n in (2, 13, 15, 17)],
}))
print("told", file=sys.stderr)
sys.exit(7)
"""
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in clean_environment().items() if name != "HOME"}
    return {**kept, **variables}


def test_a_forked_program_finds_and_leaves_what_a_new_one_does(tmp_path: Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(TELLS)
    folder.mkdir()
    told = []
    for variables in ({}, {"PYTHONHASHSEED": "1"}):
        env = environment(A_VARIABLE="ä", **variables)
        child = warm.start([str(program), "a b", "--c"], cwd=folder, env=env, **PIPES)
        assert isinstance(child, warm._Forked) == (not variables)
        stdout, stderr = child.communicate(b"asked", timeout=60)
        told.append((json.loads(stdout), stderr, child.returncode, child.poll()))
    assert told[0] == told[1]
    assert told[0][0]["product"] == []
    assert told[0][1:] == (b"told\n", 7, 7)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nobody_else(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import time\nprint('began', flush=True)\ntime.sleep(60)")
    first, second = (warm.start([str(program)], cwd=tmp_path, env=environment(), **PIPES) for _ in range(2))
    for child in (first, second):
        assert child.stdout is not None
        assert child.stdout.readline() == b"began\n"
    first.send_signal(number)
    assert first.wait(10) == -number
    assert second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    second.kill()
    assert second.communicate(timeout=10)[0] == b""
    assert second.returncode == -signal.SIGKILL
    assert first.communicate()[0] == b""


def test_what_ends_by_an_error_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise ValueError('why')")
    ended = warm.start([str(program)], cwd=tmp_path, env=environment(), **PIPES)
    assert ended.communicate(timeout=60)[1].endswith(b"ValueError: why\n")
    assert ended.returncode == 1


def test_a_module_is_run_as_one(tmp_path: Path) -> None:
    Path(tmp_path, "a_module.py").write_text("import sys\nprint(sys.argv[1:], __name__, sys.path[0])")
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = warm.start(["-m", "a_module", "x"], cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    assert child.wait(60) == 0
    assert log.read_text() == f"['x'] __main__ {os.path.realpath(tmp_path)}\n"
    assert sys.executable in child.args  # type: ignore[operator]
