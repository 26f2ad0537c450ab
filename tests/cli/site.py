"""One configuration in a folder of its own, and the two programs that read it, started as their users start them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.process import clean_environment
from tests import warm
from tests.faults.rig import ROOT, WorkerProcess
from tests.poll import eventually

CODES = frozenset({0, 1, 2, 3, 130})
"""Every exit code that the documents know."""
COMMAND_S = 120.0
READY_S = 40.0
RETRIES = {"error_delay": 0.05, "timeout_delay": 0.05}

Argument = str | bytes


@dataclass(frozen=True)
class Ended:
    """What a program said, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        (only,) = self.documents
        return only

    @property
    def problems(self) -> list[str]:
        return self.stderr.splitlines()


@dataclass
class Site:
    """`drayage.yaml` in `folder`; programs run there and find it without being told."""

    folder: Path
    document: dict[str, Any]
    environ: dict[str, str] = field(default_factory=dict)
    _processes: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(self.document)

    @property
    def queue(self) -> str:
        queue: str = self.document["temporal"]["task_queue"]
        return queue

    @property
    def address(self) -> str:
        address: str = self.document["temporal"]["address"]
        return address

    def write(self, document: Any, name: str = "drayage.yaml") -> Path:
        """A configuration file; text is written as it is."""
        path = self.folder / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    async def starter(self, *arguments: Argument, stdin: bytes = b"", **variables: str) -> Ended:
        """`starter.py` to its end. Fails for an exit code that no document knows, and for a traceback."""
        return await asyncio.to_thread(self._finish, "starter.py", arguments, stdin, variables)

    async def worker_ends(self, *arguments: Argument, **variables: str) -> Ended:
        """`worker.py` where it is expected to give up by itself."""
        return await asyncio.to_thread(self._finish, "worker.py", arguments, b"", variables)

    def _finish(self, program: str, arguments: Sequence[Argument], stdin: bytes, variables: Mapping[str, str]) -> Ended:
        with self.launch(program, *arguments, variables=variables) as child:
            try:
                stdout, stderr = child.communicate(stdin, timeout=COMMAND_S)
            except subprocess.TimeoutExpired:
                child.kill()
                stdout, stderr = child.communicate()
                raise AssertionError(f"{program} {arguments} hangs; it said {stdout!r} and {stderr!r}") from None
        ended = Ended(child.returncode, stdout.decode(), stderr.decode())
        assert ended.code in CODES, ended
        assert "Traceback" not in ended.stderr, ended
        return ended

    def launch(self, program: str, *arguments: Argument, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        return warm.start(
            [str(ROOT / program), *arguments],
            cwd=self.folder,
            env=self._environment(variables or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def worker(self, role: str = "all", *arguments: str, **settings: Any) -> WorkerProcess:
        """A worker process that polls; `settings` override those of the worker. Its log holds standard error only, and its
        configuration stands beside it."""
        name = f"worker-{uuid.uuid4().hex[:8]}"
        config = self.write({**self.document, "worker": {**self.document["worker"], **settings}}, f"{name}.yaml")
        log = self.folder / f"{name}.log"
        started = WorkerProcess(await asyncio.to_thread(self._spawn, config, ["--role", role, *arguments], log), log)
        self._processes.append(started)
        await eventually(started.ready, READY_S)
        return started

    def _spawn(self, config: Path, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as stderr, log.with_suffix(".out").open("wb") as stdout:
            return warm.start(
                [str(ROOT / "worker.py"), *arguments, "--config", str(config)],
                cwd=self.folder,
                env=self._environment({}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in clean_environment().items() if not name.startswith(("TEMPORAL_", "DRAYAGE_"))}
        return {**inherited, **self.environ, **variables}

    async def phase(self, route: str, key: str) -> str | None:
        """Of the open workflow, as `explain` tells it; None without one."""
        workflow = (await self.starter("explain", route, key, "--json")).document["workflow"]
        return workflow["open"]["phase"] if workflow["open"] else None

    def close(self) -> None:
        for process in self._processes:
            process.discard()


async def interrupt(child: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT) -> Ended:
    """The signal, and how the program ended."""
    child.send_signal(number)
    stdout, stderr = await asyncio.to_thread(child.communicate, None, COMMAND_S)
    return Ended(child.returncode, stdout.decode(), stderr.decode())
