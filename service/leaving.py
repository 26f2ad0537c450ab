"""How a process ends."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Ends the process with this code once everything is closed and flushed.

    The SDK's native threads outlive the event loop, and one that hands back a late answer while the interpreter is being
    torn down aborts the process (exit code 134). So the interpreter is not torn down.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed before the process began
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
