"""The direction of imports: each top-level package and module may import what stands below it, and nothing else.

    worker, starter, cli, console -> ingest -> workflows -> activities -> stores, ledger -> replication

Read from the syntax trees, imports inside functions included, so no module has to be importable for this to hold.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

LEAVES = {"stores", "ledger", "replication"}
ALLOWED: dict[str, set[str]] = {
    "replication": set(),
    "stores": {"replication"},
    "ledger": {"replication"},
    "embedded": {"replication"},
    "service": {"replication"},
    "activities": LEAVES,
    "workflows": {"activities", "replication"},
    "ingest": {"workflows", "service", *LEAVES},
    "console": {"ingest", "workflows", "service", *LEAVES},
    "cli": {"ingest", "workflows", "embedded", "service", *LEAVES},
    "starter": {"cli", "ingest", "workflows", "embedded", "service", *LEAVES},
    "worker": {"workflows", "activities", "service", *LEAVES},
    "deploy": set(),
    "benchmarks": {"ingest", "workflows", "activities", "embedded", "cli", "worker", "service", *LEAVES},
}
"""What each unit may import. `activities` in `workflows` is bound by two more rules, below."""

REPLICATION_LIBRARIES = {"jsonpath", "pydantic", "pydantic_core", "yaml"} | sys.stdlib_module_names
"""The rules are pure: no client library and no temporalio."""


class Import(NamedTuple):
    """`unit` is the first name of what is imported; `names` are what it is bound to; `passed_through` says whether it
    stands under `workflow.unsafe.imports_passed_through()`."""

    unit: str
    names: tuple[str, ...]
    line: int
    passed_through: bool


def product_files() -> Iterator[tuple[str, Path]]:
    """(unit, file) of every module outside tests/."""
    for package in sorted(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if package not in ("tests", "build"):
            yield from ((package, path) for path in sorted((ROOT / package).rglob("*.py")))
    yield from ((path.stem, path) for path in sorted(ROOT.glob("*.py")))


def imports_of(tree: ast.AST, *, passed_through: bool = False) -> Iterator[Import]:
    """Every absolute import under `tree`; a relative one stays within its unit."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name.split(".")[0], (alias.asname or alias.name.split(".")[0],), node.lineno, passed_through)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield Import(node.module.split(".")[0], tuple(a.asname or a.name for a in node.names), node.lineno, passed_through)
        else:
            yield from imports_of(node, passed_through=passed_through or _passes_through(node))


def _passes_through(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any("imports_passed_through" in ast.unparse(item.context_expr) for item in node.items)


def calls_of(tree: ast.AST, names: set[str]) -> Iterator[tuple[str, int]]:
    """Calls of these names or of attributes of theirs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.split(".")[0] in names:
                yield called, node.lineno


def violations(unit: str, source: str) -> list[str]:
    """What a module of `unit` with this source does against the rules, one line each."""
    tree = ast.parse(source)
    found = list(imports_of(tree))
    units = ALLOWED.keys() | {"tests"}
    problems = [f"line {i.line}: {unit} imports {i.unit}" for i in found if i.unit in units - ALLOWED[unit] - {unit}]
    if unit == "replication":
        outside = [i for i in found if i.unit not in REPLICATION_LIBRARIES | units]
        problems += [f"line {i.line}: the rules import {i.unit}" for i in outside]
    if unit == "workflows":
        of_activities = [i for i in found if i.unit == "activities"]
        problems += [f"line {i.line}: activities are not passed through" for i in of_activities if not i.passed_through]
        names = {name for i in of_activities for name in i.names}
        problems += [f"line {line}: a workflow calls {called}()" for called, line in calls_of(tree, names)]
    return problems


def test_every_module_imports_only_what_stands_below_it() -> None:
    found = [f"{path.relative_to(ROOT)}: {problem}" for unit, path in product_files() for problem in violations(unit, path.read_text())]
    assert found == []


def test_every_unit_has_a_rule() -> None:
    assert {unit for unit, _ in product_files()} <= ALLOWED.keys()


def test_the_rules_and_the_imports_have_no_cycle() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()
    graph: dict[str, set[str]] = {}
    for unit, path in product_files():
        found = {i.unit for i in imports_of(ast.parse(path.read_text()))}
        graph.setdefault(unit, set()).update((found & ALLOWED.keys()) - {unit})
    assert {*graphlib.TopologicalSorter(graph).static_order()} == graph.keys(), "a cycle is raised as CycleError"


def test_the_package_of_workflows_is_empty() -> None:
    # The sandbox executes it again for every workflow run.
    assert (ROOT / "workflows" / "__init__.py").read_text() == ""


PASSED = "with workflow.unsafe.imports_passed_through():\n    from activities.objects import Acts\n"


@pytest.mark.parametrize(
    ("unit", "source", "problem"),
    [
        ("replication", "import temporalio", "the rules import temporalio"),
        ("replication", "from aiohttp import web", "the rules import aiohttp"),
        ("replication", "def f() -> None:\n    import stores.base", "replication imports stores"),
        ("stores", "from activities.objects import Acts", "stores imports activities"),
        ("stores", "from ledger import receipts", "stores imports ledger"),
        ("activities", "import workflows.options", "activities imports workflows"),
        ("workflows", "import stores.s3", "workflows imports stores"),
        ("workflows", "from activities.objects import Acts", "activities are not passed through"),
        ("workflows", f"{PASSED}Acts.settle(1)", "a workflow calls Acts.settle()"),
        ("workflows", f"{PASSED}Acts()", "a workflow calls Acts()"),
        ("ingest", "from activities import metrics", "ingest imports activities"),
        ("cli", "try:\n    import activities\nfinally:\n    pass", "cli imports activities"),
        ("starter", "import activities.objects as a", "starter imports activities"),
        ("console", "import activities", "console imports activities"),
        ("embedded", "import stores", "embedded imports stores"),
        ("worker", "from tests import poll", "worker imports tests"),
        ("deploy", "import replication.settings", "deploy imports replication"),
    ],
)
def test_an_offending_module_is_found(unit: str, source: str, problem: str) -> None:
    assert [line for line in violations(unit, source) if line.endswith(problem)]


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("replication", "import pydantic, yaml, re\nfrom . import keys\nfrom replication.keys import check_key"),
        ("workflows", f"{PASSED}run(Acts.settle, 1)"),
        ("worker", "from activities.objects import Acts\nActs()"),
    ],
)
def test_an_honest_module_passes(unit: str, source: str) -> None:
    assert violations(unit, source) == []
