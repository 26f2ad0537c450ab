"""Programs of the product that start at once: forked from a process that has loaded the libraries already.

What a command does for most of its time is import libraries, and the tests run a thousand. Each program is a process of its own all
the same, with its own descriptors, folder and environment; it imports the product's modules itself, takes every signal, and ends as
it would. What depends on how Python starts is run as its users run it: see `tests/cli/test_output.py`, `make demo`, and every program
whose environment has other variables for Python.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedded.process import clean_environment
from tests.warm_server import LONGEST

SERVER = Path(__file__).with_name("warm_server.py")
_one_at_a_time = threading.Lock()


def start(command: Sequence[str | bytes], *, cwd: Path, env: dict[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """`python COMMAND…` as `subprocess.Popen` starts it, forked where that makes no difference."""
    alike = _of_python(env) == _of_python(clean_environment())
    if sys.platform == "linux" and alike and all(isinstance(word, str) for word in command):
        request = json.dumps({"command": command, "folder": str(cwd), "environment": env}).encode()
        if len(request) < LONGEST:
            return _Forked(command, request, **streams)
    return subprocess.Popen([sys.executable, *command], cwd=cwd, env=env, **streams)


def _of_python(environment: dict[str, str]) -> dict[str, str]:
    """What the interpreter and the libraries look at when they start."""
    return {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LC_", "LANG", "TZ", "GRPC"))}


class _Forked(subprocess.Popen[bytes]):
    """Three methods of CPython's class are replaced: how the child is made, and the two that ask how it ended."""

    def __init__(self, command: Sequence[str | bytes], request: bytes, **streams: Any) -> None:
        self._request = request
        self._told = -1
        self._ending = select.poll()
        super().__init__([sys.executable, *command], **streams)

    def _execute_child(self, *given: Any) -> None:
        pipes = given[10:16]  # of each standard stream what the child reads and we write, or the other way round
        stdin, _, _, stdout, _, stderr = pipes
        self._told, telling = os.pipe()
        try:
            standard = [own if own != -1 else number for number, own in enumerate((stdin, stdout, stderr))]
            socket.send_fds(_server(), [self._request], [*standard, telling])
        finally:
            os.close(telling)
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self._child_created = True
        self.pid = self._read()
        self._ending.register(self._told, select.POLLIN)

    def _read(self) -> int:
        told = os.read(self._told, 4)
        if len(told) < 4:
            raise ChildProcessError("the process that forks programs has ended")
        return int.from_bytes(told)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not self._ending.poll(0):
            return 0, 0
        status = self._read()
        os.close(self._told)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def _server() -> socket.socket:
    with _one_at_a_time:
        return _started()


@functools.cache
def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno())],
            env=clean_environment(),
            stdin=subprocess.PIPE,  # as those of the programs mostly are: Python asks a stream once what it can do
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
        )

    @atexit.register
    def stop() -> None:
        ours.close()
        process.communicate()

    return ours
