"""`sync` as a process of its own: what it refuses, what it keeps, how it ends, and that it goes on where it was.

The pass itself is a stub (`stub_worker.py`) that does what the last part of `--start-after` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from cli import sync
from cli.main import build_parser
from cli.output import Output
from cli.passes import tell_end
from cli.sync_engine import worker_environment
from cli.sync_pass import Ending, exit_code
from cli.sync_state import State, own_files, pair_id, state_home
from cli.sync_urls import Place
from cli.sync_view import Meter, closing_lines, live_text
from replication.ids import reconcile_id
from replication.passes import Counters, PassProgress
from tests.cli.site import Argument, Ended, Site, interrupt
from tests.poll import eventually

STUB = "tests/cli/stub_sync.py"
REAL = "starter.py"
READY_S = 40.0


@dataclass
class Desk:
    """Two folders, a state folder, and `sync` between them."""

    site: Site
    source: Path
    destination: Path

    @property
    def home(self) -> Path:
        return self.site.folder / "state"

    @property
    def state(self) -> State:
        places = (Place({"type": "file", "root": str(path.parent)}, path.name, "") for path in (self.source, self.destination))
        return State(self.home / "drayage", pair_id(*places))

    async def sync(self, *arguments: Argument, program: str = STUB, **variables: str) -> Ended:
        return await asyncio.to_thread(self.site._finish, program, ("sync", *arguments), b"", variables)

    async def run(self, scenario: str, *arguments: Argument) -> Ended:
        return await self.sync(*self.pair(scenario), *arguments, "--json")

    def pair(self, scenario: str) -> tuple[str, ...]:
        return (str(self.source), str(self.destination), "--start-after", scenario)

    def launch(self, scenario: str, *arguments: Argument, **variables: str) -> subprocess.Popen[bytes]:
        return self.site.launch(STUB, "sync", *self.pair(scenario), *arguments, variables=variables)

    async def handle(self) -> WorkflowHandle[Any, Any]:
        """The pass on the server of the run that is going on."""
        address = yaml.safe_load(self.state.config.read_text())["temporal"]["address"]
        client = await Client.connect(address, data_converter=pydantic_data_converter)
        return client.get_workflow_handle(reconcile_id(self.state.name))

    async def running(self, child: subprocess.Popen[bytes]) -> tuple[WorkflowHandle[Any, Any], str]:
        """The open pass and its run, once it is there."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and child.poll() is None:
            with contextlib.suppress(Exception):  # the log, the settings and the server are made anew by each run
                assert "worker is ready" in self.state.worker_log.read_text()
                handle = await self.handle()
                found = await handle.describe()
                if found.status == WorkflowExecutionStatus.RUNNING:
                    return handle, found.run_id
            await asyncio.sleep(0.1)
        raise AssertionError(f"no pass runs; sync ended with {child.poll()}")

    def children(self) -> dict[int, str]:
        """The processes whose command lines name this desk's state folder."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return {pid: text for pid, text in found.items() if str(self.state.folder) in text}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    source, destination = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    return Desk(Site(tmp_path / "desk", {}, {"XDG_STATE_HOME": str(tmp_path / "desk" / "state")}), source, destination)


# --- refused before anything is made ---------------------------------------------------------------------------------

MakeArguments = Callable[[Desk], list[Argument]]

BAD: dict[str, tuple[MakeArguments, str]] = {
    "an unknown scheme": (lambda d: ["ftp://a", str(d.destination)], "argument SOURCE: scheme: 'ftp'"),
    "an unknown field": (lambda d: [str(d.source), "s3://b?endpont=x"], "argument DESTINATION: endpont: unknown field"),
    "a literal secret": (
        lambda d: ["s3://b?access_key_id=AKIAVERYSECRET&secret_access_key=env:S", str(d.destination)],
        "argument SOURCE: access_key_id: must be a reference",
    ),
    "a secret that is not there": (
        lambda d: [str(d.source), "s3://b?access_key_id=env:NO_SUCH_KEY&secret_access_key=env:NO_SUCH_SECRET"],
        "argument DESTINATION: access_key_id: the environment variable NO_SUCH_KEY is not set",
    ),
    "a missing bucket": (lambda d: ["s3://", str(d.destination)], "argument SOURCE: bucket: is missing"),
    "a file URL with a host": (lambda d: ["file://host/a", str(d.destination)], "argument SOURCE: host: "),
    "the same place twice": (lambda d: [str(d.source), f"file://{d.source}"], "argument DESTINATION: overlaps SOURCE"),
    "one within the other": (lambda d: [str(d.source), str(d.source / "sub")], "argument DESTINATION: overlaps SOURCE"),
    "a prefix that is no folder": (lambda _: ["s3://b/x", "s3://c/y/"], "argument SOURCE: prefix: does not end in '/'"),
    "a source that is not there": (lambda d: [str(d.destination), str(d.source)], "argument SOURCE: path: "),
    "a cap without deletions": (
        lambda d: [str(d.source), str(d.destination), "--max-delete", "5"],
        "argument --max-delete: needs --delete",
    ),
    "sizes in the wrong order": (
        lambda d: [str(d.source), str(d.destination), "--min-size", "2", "--max-size", "1"],
        "argument --max-size: is less than --min-size",
    ),
    "a key outside the source": (
        lambda d: ["s3://b/a/", str(d.destination), "--start-after", "b/1"],
        "argument --start-after: is not below the prefix of SOURCE",
    ),
    "a path that is not UTF-8": (lambda d: [bytes(d.source) + b"/\xff", str(d.destination)], "argument SOURCE: prefix: "),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_wrong_argument_is_one_line_and_leaves_nothing_behind(desk: Desk, case: str) -> None:
    arguments, problem = BAD[case]
    ended = await desk.sync(*arguments(desk), "--json", program=REAL)

    assert (ended.code, ended.stdout) == (2, "")
    (line,) = ended.problems
    assert line.startswith(f"starter.py: {problem}")
    assert "AKIA" not in line
    assert not desk.home.exists()
    assert not desk.destination.exists()


@pytest.mark.parametrize(
    ("destination", "said"), [("s3://b/x?region=eu-north-1", "s3://b/x is taken as the folder s3://b/x/\n"), ("s3://b/x/", "")]
)
def test_a_prefix_that_is_taken_as_a_folder_is_told(desk: Desk, capsys: pytest.CaptureFixture[str], destination: str, said: str) -> None:
    options = build_parser().parse_args(["sync", str(desk.source), destination])
    sync.prepare(options, {"HOME": str(desk.home)}, Output(as_json=False)).close()
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["a"], "DESTINATION"), (["a", "b", "--min-size", "x"], "argument --min-size: "), (["a", "b", "--config", "c"], "--config")],
)
async def test_usage_ends_with_a_line_that_names_the_argument(desk: Desk, arguments: list[str], named: str) -> None:
    ended = await desk.sync(*arguments, program=REAL)

    assert (ended.code, ended.stdout) == (2, "")
    assert named in ended.problems[-1]
    assert not desk.home.exists()


async def test_a_source_reached_through_a_link_is_the_same_place(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(desk.source)
    ended = await desk.sync(str(tmp_path / "link"), str(desk.source), program=REAL)
    assert "argument DESTINATION: overlaps SOURCE" in ended.stderr


async def test_a_second_sync_of_a_pair_is_refused_while_the_first_runs_and_another_pair_is_not(desk: Desk) -> None:
    with desk.state.locked():
        ended = await desk.run("done")
        other = await desk.sync(str(desk.source), str(desk.destination) + "-2", "--json")

    assert (ended.code, ended.stdout) == (2, "")
    assert ended.problems[0].startswith("starter.py: another sync of this SOURCE and DESTINATION is running (process ")
    assert other.code == 0


async def test_a_state_folder_that_cannot_be_made_is_one_line(desk: Desk) -> None:
    desk.home.write_text("a file stands here")
    ended = await desk.run("done")

    assert (ended.code, ended.stdout) == (2, "")
    assert "XDG_STATE_HOME" in ended.problems[0]


# --- how a run ends --------------------------------------------------------------------------------------------------


async def test_a_run_ends_with_its_counts_and_leaves_no_process_and_no_secret(desk: Desk) -> None:
    secrets = {"SYNC_KEY": "AKIAVERYSECRET", "SYNC_SECRET": "verysecret"}
    url = "s3://bucket?endpoint=http://127.0.0.1:9&access_key_id=env:SYNC_KEY&secret_access_key=env:SYNC_SECRET"
    ended = await desk.sync(url, str(desk.destination), "--json", TEMPORAL_ADDRESS="nowhere.invalid:1", **secrets)

    assert ended.code == 0
    wanted = {"listed": 5, "copied": 3, "skipped": 2, "deleted": 0, "failed": 0, "bytes_copied": 4096, "seconds": 2.0}
    assert wanted.items() <= ended.document.items()
    (folder,) = (desk.home / "drayage").iterdir()
    left = {path.name for path in folder.iterdir()}
    assert left >= {"drayage.yaml", "lock", "server.log", "worker.log"}
    assert not [name for name in left if name.startswith("temporal.db")], "a server that is killed may leave a journal"
    assert all(
        "AKIAVERYSECRET" not in text and "verysecret" not in text for text in (p.read_text() for p in folder.iterdir() if p.is_file())
    )
    assert desk.destination.is_dir()
    assert desk.children() == {}


async def test_without_a_terminal_only_the_closing_lines_are_said(desk: Desk) -> None:
    ended = await desk.sync(*desk.pair("done"))

    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[:2] == [
        "5 listed, 3 copied, 0 updated, 2 in sync, 0 deleted, 0 failed",
        "4KiB copied in 2s, 2KiB/s",
    ]


async def test_a_dry_run_makes_no_destination(desk: Desk) -> None:
    ended = await desk.run("done", "--dry-run")

    assert (ended.code, ended.document["mode"]) == (0, "plan")
    assert not desk.destination.exists()


@pytest.mark.parametrize(
    ("scenario", "code", "said"),
    [("incomplete", 1, "incomplete"), ("denied", 3, "failed: credentials-refused: the keys are wrong")],
)
async def test_the_exit_code_tells_how_the_pass_ended(desk: Desk, scenario: str, code: int, said: str) -> None:
    ended = await desk.run(scenario)

    assert ended.code == code
    assert ended.problems == [said]


async def test_a_pass_that_waits_for_a_store_is_left_with_3_and_the_next_run_begins_anew(desk: Desk) -> None:
    first = await desk.run("waiting")
    assert first.code == 3
    assert first.document["state"] == "waiting"
    assert first.problems[0].startswith("waiting: endpoint-unreachable: nobody is there: run the same command again")

    second = await desk.run("waiting")
    assert second.code == 3
    assert "goes on" not in second.stderr


async def test_held_deletions_go_on_with_approve_and_the_same_options_only(desk: Desk) -> None:
    first = await desk.run("held", "--delete", "--max-delete", "2")
    assert (first.code, first.document["state"]) == (1, "held")
    assert first.problems == ["held: 3 deletions, more than 2: run the same command with --approve to let these deletions go on"]

    other = await desk.run("held", "--delete", "--approve")
    assert other.code == 2
    assert "argument --approve: what is held was started with other options" in other.stderr

    approved = await desk.run("held", "--delete", "--max-delete", "2", "--approve")
    assert approved.code == 0
    assert approved.document["notes"] == ["True"]


async def test_approve_where_nothing_is_held_is_said_and_approves_nothing(desk: Desk) -> None:
    ended = await desk.run("held", "--approve")

    assert ended.code == 1
    assert ended.problems[0] == "--approve: nothing is held"


# --- interrupted, and on again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_an_interrupted_run_ends_with_130_and_the_next_one_joins_its_pass(desk: Desk, number: signal.Signals) -> None:
    with desk.launch("slow", "--json") as child:
        _, run_id = await desk.running(child)
        ended = await interrupt(child, number)
    assert ended.code == 130
    assert ended.problems[-1] == "interrupted: run the same command again to go on from here"
    assert (ended.document["state"], ended.document["copied"]) == ("interrupted", 3), "however early"
    assert desk.children() == {}

    with desk.launch("slow", "--bandwidth", "1MiB/s", "--json") as child:
        handle, joined = await desk.running(child)
        await handle.execute_update("approve")
        stdout, stderr = await asyncio.to_thread(child.communicate, None, 60)
    assert joined == run_id
    document = json.loads(stdout)
    assert (child.returncode, document["state"], document["copied"]) == (0, "done", 3)
    assert document["seconds"] < 600, "of this run"
    assert b"goes on where the last run stopped" in stderr


async def test_other_options_end_the_interrupted_pass_and_start_another(desk: Desk) -> None:
    with desk.launch("slow") as child:
        await desk.running(child)
        await interrupt(child)

    ended = await desk.run("slow/done")
    assert ended.code == 0
    assert "goes on" not in ended.stderr


async def test_a_run_that_is_killed_takes_its_children_along_and_is_joined_by_the_next(desk: Desk) -> None:
    with desk.launch("slow") as child:
        _, run_id = await desk.running(child)
        child.kill()
    await eventually(lambda: desk.children() == {}, 10)

    with desk.launch("slow") as child:
        _, joined = await desk.running(child)
        await interrupt(child)
    assert joined == run_id


async def test_a_second_signal_kills_at_once(desk: Desk) -> None:
    with desk.launch("slow", STUB_IGNORES_SIGTERM="1") as child:
        await desk.running(child)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert await asyncio.to_thread(child.stderr.readline) == b"stopping; once more kills\n"
        began = time.monotonic()
        ended = await interrupt(child)
    assert ended.code == 130
    assert time.monotonic() - began < 10
    assert desk.children() == {}


async def test_a_worker_that_dies_ends_the_run_with_3(desk: Desk) -> None:
    with desk.launch("slow") as child:
        await desk.running(child)
        (worker,) = [pid for pid, text in desk.children().items() if "stub_worker.py" in text]
        os.kill(worker, signal.SIGKILL)
        stdout, stderr = await asyncio.to_thread(child.communicate, None, 60)
    assert (child.returncode, stdout) == (3, b"")
    assert b"the worker has ended; its log: " in stderr


async def test_a_dry_run_does_not_go_on_with_an_interrupted_pass_and_leaves_it_to_the_next_run(desk: Desk) -> None:
    with desk.launch("slow") as child:
        _, run_id = await desk.running(child)
        await interrupt(child)

    dry = await desk.run("done", "--dry-run")
    assert dry.code == 0
    assert "slow" not in desk.state.worker_log.read_text()

    with desk.launch("slow") as child:
        _, joined = await desk.running(child)
        await interrupt(child)
    assert joined == run_id


# --- the pieces ------------------------------------------------------------------------------------------------------

FILES = {"type": "file", "root": "/srv"}


def test_the_state_is_of_the_places_and_not_of_how_they_are_written_or_signed_in_to() -> None:
    one = Place({"type": "s3", "endpoint": "http://localhost:80", "access_key_id": "env:A", "secret_access_key": "env:B"}, "b", "x/")
    same = Place({"type": "s3", "endpoint": "http://127.0.0.1", "region": "eu-north-1"}, "b", "x/")
    out = Place(FILES, "out", "")

    assert pair_id(one, out) == pair_id(same, out)
    assert len({pair_id(one, out), pair_id(out, one), pair_id(one._replace(prefix="y/"), out), pair_id(one, out._replace(bucket="o"))}) == 4


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"XDG_STATE_HOME": "/srv/state", "HOME": "/srv/me"}, "/srv/state/drayage"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/srv/me"}, "/srv/me/.local/state/drayage"),
        ({"XDG_STATE_HOME": "", "HOME": "/srv/me"}, "/srv/me/.local/state/drayage"),
    ],
)
def test_the_state_home_is_as_the_xdg_specification_says(environ: dict[str, str], home: str) -> None:
    assert state_home(environ) == Path(home)


def test_states_within_the_source_are_left_out() -> None:
    state = State(Path("/srv/in/a*b/drayage"), "0")
    assert own_files(state, Place(FILES, "in", "")) == ["a[*]b/drayage/**"]
    assert own_files(state, Place(FILES, "inn", "")) == []
    assert own_files(state, Place({"type": "s3"}, "in", "")) == []


def test_the_worker_gets_the_credentials_of_the_caller_and_no_other_temporal() -> None:
    made = worker_environment({"AWS_PROFILE": "p", "TEMPORAL_API_KEY": "k", "DRAYAGE_CONFIG": "c", "MY_KEY": "s"})
    assert {"AWS_PROFILE": "p", "MY_KEY": "s"}.items() <= made.items()
    assert not {"TEMPORAL_API_KEY", "DRAYAGE_CONFIG", "AWS_EC2_METADATA_DISABLED"} & made.keys()


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("done", "", 0),
        ("incomplete", "", 1),
        ("cancelled", "", 1),
        ("skipped", "", 1),
        ("failed", "defect: x", 1),
        ("failed", "invalid-manifest: x", 1),
        ("failed", "endpoint-unreachable: x", 3),
        ("failed", "bucket-not-found", 3),
        ("failed", "permission-refused: x", 3),
        ("failed", "store-timeout: x", 3),
        ("failed", "", 1),
    ],
)
def test_exit_codes(state: str, reason: str, code: int) -> None:
    assert exit_code(state, reason) == code


def test_rates_are_of_the_last_seconds_and_the_time_to_go_is_told_once_ranges_are_done() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])

    def at(seconds: float, copied: int, done: int, left: int) -> None:
        now[0] = seconds
        counters = Counters(bytes_copied=copied * 1000, copied=copied)
        meter.add(PassProgress(route="r", counters=counters, partitions_done=done, partitions_open=left))

    at(0, 0, 0, 4)
    assert (meter.bytes_per_s, meter.to_go_s) == (0.0, None)
    at(10, 100, 1, 3)
    assert (meter.bytes_per_s, meter.objects_per_s, meter.to_go_s) == (10_000.0, 10.0, 30.0)
    at(20, 100, 2, 2)
    at(31, 100, 3, 1)
    assert meter.bytes_per_s == 0.0
    assert meter.to_go_s == pytest.approx(31 / 3)


def test_the_live_line_says_what_fails_and_what_is_waited_for() -> None:
    counters = Counters(listed=1200, copied=1000, failed=2, blocked=1, deleted=4, bytes_copied=1 << 20)
    progress = PassProgress(route="r", state="waiting", counters=counters, problem="throttled: \x1b[2J")
    text = live_text(progress, Meter())
    assert text == "1,200 objects · 1,000 copied (1MiB) · 0B/s, 0 objects/s · 4 deleted · 3 failed · waiting: throttled: \\x1b[2J"


def test_the_closing_lines_of_a_dry_run_promise_and_do_not_report() -> None:
    progress = PassProgress(route="r", mode="plan", counters=Counters(listed=3, copied=2, updated=1, deleted=1, bytes_copied=10))
    first, second = closing_lines(Ending(0, "done", progress, 1.0))
    assert first == "3 listed, 2 to copy, 1 to update, 0 in sync, 1 to delete, 0 failed"
    assert second == "10B to copy in 1s"


def test_the_closing_lines_of_a_run_that_went_on_tell_what_it_copied_in_its_own_time() -> None:
    progress = PassProgress(route="r", counters=Counters(listed=3, copied=3, bytes_copied=30 << 10))
    assert closing_lines(Ending(0, "done", progress, 2.0, bytes_before=10 << 10))[1] == "30KiB copied, 20KiB by this run in 2s, 10KiB/s"


def test_a_dry_run_of_a_route_promises_and_does_not_report() -> None:
    told = io.StringIO()
    ended = PassProgress(route="r", mode="plan", state="done", counters=Counters(listed=3, copied=2, updated=1, bytes_copied=10))
    tell_end(Output(as_json=False, stdout=told), ended, {"source": 0.1})
    assert told.getvalue() == (
        "done: 3 listed, 2 to copy, 1 to update, 0 in sync, 0 to delete, 0 failed; 10B to copy\nestimated cost: 0.10 at the source\n"
    )
    assert live_text(ended, Meter()).startswith("3 objects · 3 to copy (10B)")


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.04s"), (2.04, "2.04s"), (14.7, "14.7s"), (59.97, "1m"), (60.9, "1m1s"), (4000.2, "1h6m40s")]
)
def test_the_time_that_a_run_took_has_no_more_figures_than_anybody_needs(seconds: float, told: str) -> None:
    progress = PassProgress(route="r", mode="plan", counters=Counters())
    assert closing_lines(Ending(0, "done", progress, seconds))[1] == f"0B to copy in {told}"


def test_the_closing_lines_tell_of_objects_that_only_the_destination_has() -> None:
    progress = PassProgress(route="r", mode="repair", counters=Counters(listed=3, skipped=3, extra=5, deleted=2))
    assert closing_lines(Ending(0, "done", progress, 1.0))[0].endswith("2 deleted, 0 failed, 3 left at the destination only")
