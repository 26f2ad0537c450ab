"""Bytecode of the workflows' modules, which the sandbox loads anew for every workflow.

Where Python keeps none on disk, because it may not (`PYTHONDONTWRITEBYTECODE`, a read-only folder), each load would compile the
module: more than a quarter of a worker's CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import cache_from_source
from inspect import getfile
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def bytecode_of(workflows: Sequence[type]) -> Iterator[None]:
    """While the block runs, it is kept in a folder of its own, unless all of it stands on disk."""
    if all(Path(cache_from_source(getfile(workflow))).exists() for workflow in workflows):
        yield
        return
    before = sys.pycache_prefix, sys.dont_write_bytecode
    with TemporaryDirectory(prefix="drayage-bytecode-") as folder:
        sys.pycache_prefix, sys.dont_write_bytecode = folder, False
        try:
            yield
        finally:
            sys.pycache_prefix, sys.dont_write_bytecode = before
