"""Modules that are loaded again and again, where Python keeps no bytecode by itself."""

from __future__ import annotations

import importlib
import sys
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType

import pytest

from workflows.bytecode import bytecode_of


def load(name: str) -> ModuleType:
    """As the sandbox does: the module anew, from its source or its bytecode."""
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module `loaded_anew` with a class of a workflow."""
    path = tmp_path / "loaded_anew.py"
    path.write_text("class Flow:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return path


def test_what_python_would_not_keep_is_kept_while_the_block_runs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    flow = load("loaded_anew").Flow
    with bytecode_of([flow]):
        load("loaded_anew")
        kept = Path(cache_from_source(str(source)))
        assert kept.exists()
        assert source.parent not in kept.parents
    assert not kept.exists()
    assert (sys.pycache_prefix, sys.dont_write_bytecode) == (None, True)


def test_bytecode_on_disk_is_used_as_it_is(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    flow = load("loaded_anew").Flow
    with bytecode_of([flow]):
        assert (sys.pycache_prefix, sys.dont_write_bytecode) == (None, False)
