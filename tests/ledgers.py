"""A ledger of its own for every configuration that a test writes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid

_FOLDER = tempfile.mkdtemp(prefix="drayage-ledgers-")
atexit.register(shutil.rmtree, _FOLDER, True)


def ledger_url() -> str:
    return f"sqlite:///{_FOLDER}/{uuid.uuid4().hex}.db"
