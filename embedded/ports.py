"""Free loopback ports for servers that may be killed and started again on the same port.

Ports come from below the kernel's ephemeral range. A port inside it can be taken by any outgoing connection while its
server is down, and a client that keeps reconnecting to such a port can even connect to itself.
"""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_EPHEMERAL_START = 32_768
ATTEMPTS = 200

_given: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """One port of 127.0.0.1 that nothing listens on; this process never gives the same one twice."""
    return free_ports(1)[0]


def free_ports(count: int, *, rng: random.Random | None = None) -> list[int]:
    """`count` different free ports. Another process may still take one before its server binds it: servers that fail
    to start try again on other ports."""
    rng = rng or random.SystemRandom()
    end = max(_ephemeral_start(), LOWEST + 1000)
    found: list[int] = []
    with _lock:
        for _ in range(ATTEMPTS * count):
            if len(found) == count:
                return found
            port = rng.randrange(LOWEST, end)
            if port not in _given and _is_free(port):
                _given.add(port)
                found.append(port)
    raise OSError(f"no {count} free ports between {LOWEST} and {end}")


def _ephemeral_start() -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    return USUAL_EPHEMERAL_START


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
