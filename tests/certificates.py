"""Certificates of somebody who lies: what they state is changed, and sealed as if it had been written so."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    def changed(text: bytes) -> bytes:
        document = json.loads(text)
        change(document)
        return json.dumps(document).encode()

    sealed_text(path, changed)


def sealed_text(path: Path, change: Callable[[bytes], bytes]) -> None:
    whole = path.read_bytes()
    (length,) = struct.unpack_from(">I", whole, len(whole) - 44)
    text = change(whole[-44 - length : -44])
    path.write_bytes(whole[: -44 - length] + text + struct.pack(">I32s", len(text), hashlib.sha256(text).digest()) + whole[-8:])
