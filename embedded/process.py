"""A child process that is started, watched, broken and stopped on purpose, and that never outlives its parent.

On Linux the kernel kills the child when the parent dies (`prctl(PR_SET_PDEATHSIG)`), however it dies; elsewhere only an
orderly exit of the parent stops it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

POLL_S = 0.02
BEGIN = b"begin\n"
LOG_TAIL_BYTES = 4_096
REAP_S = 10.0
"""A process that got SIGKILL is gone well within this."""

UNSET = ("AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "HTTP_PROXY", "http_proxy")
"""Variables of the caller that would change what an embedded server does."""

# Asks the kernel for SIGKILL on the parent's death, leaves at once if the parent is gone already, and becomes the
# server. A program of its own, because code between fork and exec is unsafe in a process with threads.
_BOUND_EXEC = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);"
    "os.execvp(sys.argv[2],sys.argv[2:])"
)

# The kernel sends the death signal when the *thread* that started the child ends. One thread, which lives as long as
# this process, starts every child, so that servers may be started from short-lived threads.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-spawner")
_running: weakref.WeakSet[ManagedProcess] = weakref.WeakSet()


class ServerStartError(RuntimeError):
    """A server ended before it answered, or did not answer in time. The message ends with its last log lines."""


class ManagedProcess:
    """One program with its log file. Every method may be called in any state; a stopped process can start again."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        inherited: Mapping[str, str] | None = None,
        grace_s: float = 5.0,
        held: bool = False,
    ) -> None:
        """`environment` is added to `inherited`, which is a cleaned copy of this process's unless it is given.

        `grace_s` is how long `stop` waits after SIGTERM; 0 stops with SIGKILL at once. A `held`
        program waits until `release` writes a line to its standard input (`embedded/preload.py`)."""
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.grace_s = grace_s
        self._held = held
        self._environment = {**(clean_environment() if inherited is None else inherited), **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts the program in a session of its own, its output appended to `log`. Does not wait for it to answer."""
        if self.is_running:
            return
        self._child = _spawner.submit(self._spawn).result()
        _running.add(self)

    def release(self) -> None:
        """Lets a held program begin, once. One that has ended already is told by `is_running`."""
        if self._child is not None and self._child.stdin is not None and not self._child.stdin.closed:
            with suppress(BrokenPipeError), self._child.stdin as line:
                line.write(BEGIN)

    def wait_ready(self, answers: Callable[[], bool], timeout_s: float) -> float:
        """Polls `answers` until it is true and returns the seconds waited. Raises `ServerStartError` as soon as the
        program ends, or after `timeout_s`."""
        began = time.monotonic()
        while True:
            if not self.is_running:
                raise ServerStartError(f"{self.name} ended with code {self._code()} before it answered; its log ends:\n{self.log_tail()}")
            if answers():
                return time.monotonic() - began
            if time.monotonic() - began > timeout_s:
                raise ServerStartError(f"{self.name} did not answer within {timeout_s:.0f} s; its log ends:\n{self.log_tail()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when the process is gone."""
        if self.is_running and self.grace_s > 0:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._wait(self.grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group: what a crash or the kernel's out-of-memory killer does."""
        child = self._child
        if child is None:
            return
        # Until the leader is reaped its process group id cannot belong to anyone else.
        if child.returncode is None:
            self._signal(signal.SIGKILL)
            self._wait(REAP_S)
        if child.stdin is not None:
            child.stdin.close()
        _running.discard(self)

    def suspend(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Returns when every thread stands still."""
        if self._child is not None and self.is_running:
            self._signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log_tail(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return "(no log)"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._bound_argv(),
                stdin=subprocess.PIPE if self._held else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def _bound_argv(self) -> list[str]:
        if sys.platform != "linux":
            return self.argv
        return [sys.executable, "-I", "-S", "-c", _BOUND_EXEC, str(os.getpid()), *self.argv]

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)

    def _wait(self, timeout_s: float) -> None:
        if self._child is not None:
            self._child.wait(timeout=timeout_s)

    def _code(self) -> int | None:
        return self._child.returncode if self._child else None


def clean_environment() -> dict[str, str]:
    """This process's environment without what would redirect a server or send it looking for cloud credentials."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}


@atexit.register
def _kill_the_rest() -> None:
    for process in list(_running):
        with suppress(Exception):
            process.kill()
