"""`sync` with the real pass: from a folder to another, again, and on after Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.cli.site import Site
from tests.poll import eventually


async def test_a_folder_is_copied_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 40)
    (source / "large").write_bytes(b"l" * (9 << 20))
    first = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    assert first.code == 0, first.stderr
    assert {name: first.document[name] for name in ("listed", "copied", "failed", "deleted")} == {
        "listed": 41, "copied": 41, "failed": 0, "deleted": 0,
    }  # fmt: skip
    assert first.document["bytes_copied"] == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert contents(destination) == contents(source)

    second = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    assert (second.code, second.document["copied"], second.document["skipped"]) == (0, 0, 41)


async def test_ctrl_c_stops_and_running_again_goes_on(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 300)
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    child = site.launch("starter.py", "sync", str(source), str(destination), "--requests", "60/s", "--json", variables=state)
    await eventually(lambda: len(contents(destination)) > 20, 60)
    child.send_signal(signal.SIGINT)
    await asyncio.to_thread(child.communicate)
    assert child.returncode == 130
    assert 20 < len(contents(destination)) < 300

    rest = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=state["XDG_STATE_HOME"])
    assert rest.code == 0, rest.stderr
    assert contents(destination) == contents(source)


def folders(tmp_path: Path, count: int) -> tuple[Path, Path, Site]:
    source, destination = tmp_path / "from", tmp_path / "to"
    (source / "deep" / "er").mkdir(parents=True)
    for number in range(count):
        (source / ("deep/er" if number % 2 else ".") / f"{number}.txt").write_text(f"content {number}")
    return source, destination, Site(tmp_path / "site", {})


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, without the product's own."""
    if not root.exists():
        return {}
    found = [path for path in root.rglob("*") if path.is_file() and ".drayage" not in str(path.relative_to(root))]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}
