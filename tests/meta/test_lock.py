"""The lock files pin everything by hash, agree with each other, and name no place; no other file of the repository does."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"), key=lambda path: path.name)

PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(?:\[[a-z0-9,_-]+\])?==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\]+?))?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

# Written so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~<{}*-])/(?:roo[t]|wor[k]|hom[e]/\w+|User[s]/\w+)/[\w.]")
INDEX_ADDRESS = re.compile(
    r"pypi\.or[g]/simple|files\.pythonhosted\.or[g]|(?:index-url|find-links|trusted-host)[= ]+\S*[:/]|file:///op[t]/"
)


def entries(lock: Path) -> list[list[str]]:
    """Each requirement with its continuation lines, comments left out."""
    lines = [line for line in lock.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "\x1f", "\n".join(lines))
    return [[piece.strip() for piece in line.split("\x1f")] for line in text.splitlines()]


def pins(lock: Path) -> set[tuple[str, str, str]]:
    """(name, version, marker) of every requirement."""
    found = [PIN.fullmatch(entry[0]) for entry in entries(lock)]
    return {(pin["name"], pin["version"], pin["marker"] or "") for pin in found if pin}


def repository_files() -> list[Path]:
    """Every file that is tracked or would be added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def places(text: str) -> list[str]:
    """Paths of a machine and addresses of package indexes in `text`."""
    return [match.group() for pattern in (MACHINE_PATH, INDEX_ADDRESS) for match in pattern.finditer(text)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_with_hashes(lock: Path) -> None:
    found = entries(lock)
    assert len(found) > 40
    assert [entry for entry in found if not PIN.fullmatch(entry[0])] == []
    assert [entry[0] for entry in found if len(entry) < 2 or not all(HASH.fullmatch(piece) for piece in entry[1:])] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address(lock: Path) -> None:
    assert [
        line for line in lock.read_text().splitlines() if "://" in line or re.match(r"\s*(-i|--(index|extra|find|trusted))", line)
    ] == []


def test_the_locks_hold_the_same_versions() -> None:
    runtime, demo, dev = (pins(ROOT / "requirements" / f"{name}.lock") for name in ("runtime", "demo", "dev"))
    assert runtime < demo < dev


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in {
        "runtime": project["dependencies"],
        "demo": project["dependencies"] + extras["embedded"],
        "dev": project["dependencies"] + extras["embedded"] + extras["dev"],
    }.items():
        locked = {name for name, _, _ in pins(ROOT / "requirements" / f"{lock}.lock")}
        names = {re.split(r"[\s\[<>=;!~]", line, maxsplit=1)[0].lower().replace("_", "-") for line in wanted}
        assert names <= locked, lock


def test_no_file_names_a_machine_or_a_package_index() -> None:
    found = {}
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if bad := places(text):
            found[str(path.relative_to(ROOT))] = bad
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /hom" + "e/ann/src/drayage",
        'open("/roo' + 't/.aws/config")',
        "--index-url ht" + "tps://mirror.example/simple",
        "--find-links" + "=/srv/wheels",
        "ht" + "tps://pypi.or" + "g/simple/",
    ],
)
def test_a_place_is_recognised(text: str) -> None:
    assert places(text)
