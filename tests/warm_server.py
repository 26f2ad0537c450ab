"""A process that has loaded the libraries and forks itself for each program that `tests/warm.py` asks for."""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

LIBRARIES = (
    "temporalio.contrib.pydantic", "temporalio.envconfig", "temporalio.worker", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "awscrt.checksums", "boto3", "google.auth.credentials", "google.protobuf.json_format", "rich.live",
    "rich.progress", "yaml",
)  # fmt: skip
"""Other people's modules that the product's programs load. Its own are never loaded here."""
LONGEST = 1 << 17
"""Bytes that a request may have."""


def serve(control: socket.socket) -> list[str] | None:
    """In the process of a program: its command line, once it has the folder, the environment and the descriptors that were asked
    for. In this process None, when nobody can ask any more."""
    while True:
        request, given, _, _ = socket.recv_fds(control, LONGEST, 4)
        if not request:
            return None
        if os.fork() == 0:
            return _watch(json.loads(request), given)
        for descriptor in given:
            os.close(descriptor)


def _watch(request: Any, given: list[int]) -> list[str]:
    """In a process between: forks the program, tells its number and then how it ended. Returns in the program alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, told = given
    pid = os.fork()
    if pid == 0:
        return _become(request, standard, told)
    for descriptor in standard:
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(told, pid.to_bytes(4))
    _, status = os.waitpid(pid, 0)
    os.write(told, status.to_bytes(4))
    os._exit(0)


def _become(request: Any, standard: list[int], told: int) -> list[str]:
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    for descriptor in (*standard, told):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    command: list[str] = request["command"]
    return command


def main() -> None:
    """`python warm_server.py N`: requests come through descriptor N."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1, "only a process of one thread can be forked"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes between
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        command = serve(control)
    if command is None:
        return
    if command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], str(Path.cwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
