"""A changed configuration is taken over by a program that runs: it ends as at SIGTERM, and starts again in the same process.

SIGHUP asks for that, or a look at the file every few seconds. What cannot be used is refused with its problems in the log, and the
program goes on as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from replication.errors import SettingsError
from replication.settings import Settings

log = logging.getLogger("drayage.service")

LOOK_EVERY_S = 5.0


class Reloading:
    """`load` reads the configuration as it is now and raises `SettingsError` where it cannot be used; `stop` ends the program.

    `wanted` says afterwards that it is to start again.
    """

    def __init__(self, settings: Settings, load: Callable[[], Settings], stop: asyncio.Event) -> None:
        self._settings = settings
        self._load = load
        self._stop = stop
        self.wanted = False

    def ask(self) -> None:
        """Ends the program where the configuration is another, sound one."""
        try:
            settings = self._load()
        except SettingsError as error:
            for problem in error.problems:
                log.error("the configuration is not taken over: %s", problem)
            return
        if settings == self._settings:
            log.info("the configuration says what it said before")
        elif not self._stop.is_set():
            log.info("the configuration has changed: starting again")
            self.wanted = True
            self._stop.set()

    def listen(self) -> None:
        """Asks at SIGHUP. A program of a terminal ends with that instead, as its user expects."""
        if hasattr(signal, "SIGHUP") and not (sys.stdin and sys.stdin.isatty()):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask)

    @asynccontextmanager
    async def watching(self, path: Path | None) -> AsyncIterator[None]:
        """While the block runs, asks whenever the file has another text; never without a path."""
        looking = asyncio.create_task(self._watch(path)) if path else None
        try:
            yield
        finally:
            if looking:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _watch(self, path: Path) -> None:
        """A file that cannot be read is on its way, or away."""
        known = await asyncio.to_thread(_text, path)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            text = await asyncio.to_thread(_text, path)
            if text is not None and text != known:
                known = text
                asyncio.get_running_loop().call_soon(self.ask)  # as a signal would: whatever it raises ends no watching


def _text(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def start_again(root: Path, program: Sequence[str]) -> NoReturn:
    """Replaces this process by the same interpreter, running `program`, whose modules are found below `root`."""
    logging.shutdown()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the program listens again
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    os.execve(sys.executable, [sys.executable, *program], {**os.environ, "PYTHONPATH": path})  # noqa: S606 - nothing of it is a stranger's
