"""Wrong usage and wrong configuration: exit code 2, one line for each problem, and nobody is contacted.

The address of the Temporal server and of every store is a socket that nobody serves: whoever connects is found in its
queue.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.ports import free_port
from embedded.process import clean_environment
from tests.cli.site import Ended, Site, interrupt
from tests.poll import eventually

SECRET = "AKIAVERYSECRETVALUE"


class Doorstep:
    """A listening socket that takes connections when it is asked for them, and never says anything."""

    def __init__(self) -> None:
        self._taken: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def visited(self) -> bool:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        self._taken.append(connection)
        return True

    def close(self) -> None:
        for one in (self._socket, *self._taken):
            one.close()


@pytest.fixture
def doorstep() -> Iterator[Doorstep]:
    found = Doorstep()
    yield found
    found.close()


@pytest.fixture
def good(doorstep: Doorstep, tmp_path: Path) -> dict[str, Any]:
    """A configuration without a mistake."""
    return {
        "temporal": {"address": doorstep.address},
        "stores": {
            "weed": {"type": "s3", "endpoint": f"http://{doorstep.address}", "access_key_id": "env:KEY", "secret_access_key": "env:SECRET"},
            "disk": {"type": "file", "root": str(tmp_path)},
        },
        "routes": [
            {
                "name": "photos",
                "source": {"store": "weed", "bucket": "photos", "prefix": "in/"},
                "destination": {"store": "disk", "bucket": "photos"},
                "exclude": ["*.tmp"],
            }
        ],
    }


@pytest.fixture
def desk(good: dict[str, Any], tmp_path: Path) -> Site:
    return Site(tmp_path / "desk", good, {"KEY": "id", "SECRET": "secret"})


def assert_refused(ended: Ended, doorstep: Doorstep, *problems: str, program: str = "starter.py: ") -> None:
    """Exit code 2, exactly these beginnings of lines, and silence everywhere else."""
    assert (ended.code, ended.stdout) == (2, "")
    assert len(ended.problems) == len(problems), ended.stderr
    for line, problem in zip(ended.problems, problems, strict=True):
        assert line.startswith(program + problem), line
    assert not doorstep.visited()


async def test_a_sound_command_does_visit_the_doorstep_and_ends_at_sigterm(desk: Site, doorstep: Doorstep) -> None:
    """The proof that the other tests of this file could fail."""
    import signal

    with desk.launch("starter.py", "copy", "photos", "in/a") as child:
        await eventually(doorstep.visited, 30.0)
        ended = await interrupt(child, signal.SIGTERM)

    assert (ended.code, ended.stdout) == (130, "")


ARGUMENTS: dict[str, tuple[list[str | bytes], str]] = {
    "an unknown route": (["copy", "videos", "in/a"], "argument ROUTE: no route 'videos' in the configuration (routes: photos)"),
    "no key": (["copy", "photos"], "argument KEY: no key is given"),
    "an empty key": (["copy", "photos", ""], "argument KEY: the key is empty"),
    "an empty second key": (["copy", "photos", "in/a", ""], "argument KEY 2: the key is empty"),
    "a key of 1,025 bytes": (["copy", "photos", "in/" + "k" * 1022], "argument KEY: the key has 1025 bytes, the limit is 1024"),
    "1,025 bytes in 514 characters": (["copy", "photos", "in/" + "é" * 511], "argument KEY: the key has 1025 bytes, the limit is 1024"),
    "a key that is not UTF-8": (["copy", "photos", b"in/\xff"], "argument KEY: the key is not valid UTF-8"),
    "a key outside the prefix": (["copy", "photos", "out/a"], "argument KEY: outside-prefix: "),
    "an excluded key": (["copy", "photos", "in/a.tmp"], "argument KEY: excluded: "),
    "a file of keys that is not there": (["copy", "photos", "--from-file", "gone"], "argument --from-file: 'gone': No such file"),
    "explain of an unknown route": (["explain", "videos", "in/a"], "argument ROUTE: no route 'videos'"),
    "explain of an empty key": (["explain", "photos", ""], "argument KEY: the key is empty"),
    "status of an unknown route": (["status", "videos"], "argument ROUTE: no route 'videos'"),
    "retry of an unknown route": (["retry", "videos"], "argument ROUTE: no route 'videos'"),
    "history without a key": (["history", "photos"], "argument KEY: either a key or --check must be given"),
    "history of a key and the chain": (["history", "photos", "in/a", "--check"], "argument KEY: either a key or --check must be given"),
    "history of an empty key": (["history", "photos", ""], "argument KEY: the key is empty"),
    "history of a key from a head": (["history", "photos", "in/a", "--head", "0" * 64], "argument --head: is of --check only"),
    "history of an unknown route": (["history", "videos", "--check"], "argument ROUTE: no route 'videos'"),
    "report of an unknown route": (["report", "videos"], "argument ROUTE: no route 'videos'"),
    "undo of an unknown route": (["undo", "videos"], "argument ROUTE: no route 'videos'"),
    "cancel of an unknown route": (["cancel", "videos"], "argument ROUTE: no route 'videos'"),
    "a limit of an unknown route": (["limit", "videos", "--requests", "1"], "argument ROUTE: no route 'videos'"),
    "no limit": (["limit", "photos"], "argument --concurrency: at least one of --concurrency, --bandwidth and --requests must be given"),
    "a schedule without an interval": (["schedule", "photos"], "argument --every: either this or --delete must be given"),
    "a schedule both ways": (
        ["schedule", "photos", "--every", "1h", "--delete"],
        "argument --every: either this or --delete must be given",
    ),
    "an interval in words": (["schedule", "photos", "--every", "hourly"], "argument --every: must be a duration such as 30s or 1h30m"),
    "an interval below zero": (["schedule", "photos", "--every=-1h"], "argument --every: must be a duration such as 30s or 1h30m"),
    "an interval of nothing": (["schedule", "photos", "--every", "0s"], "argument --every: must be at least 1s"),
    "an interval without an end": (["schedule", "photos", "--every", "9999999d"], "argument --every: must be between 0s and "),
    "a schedule of an unknown route": (["schedule", "videos", "--every", "1h"], "argument ROUTE: no route 'videos'"),
    "pause of a key that is not UTF-8": (["pause", "photos", b"\xfe"], "argument KEY: the key is not valid UTF-8"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
async def test_a_wrong_argument_is_named_in_one_line(desk: Site, doorstep: Doorstep, case: str) -> None:
    arguments, problem = ARGUMENTS[case]
    assert_refused(await desk.starter(*arguments, "--json"), doorstep, problem)


async def test_a_wrong_line_of_standard_input_is_named_by_its_number(desk: Site, doorstep: Doorstep) -> None:
    ended = await desk.starter("copy", "photos", "--from-file", "-", stdin=b"in/a\n\nin/b\n")
    assert_refused(ended, doorstep, "--from-file line 2: the key is empty")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["housekeep", "--older-than", "soon"], "argument --older-than: "),
        (["copi", "photos", "in/a"], "argument COMMAND: "),
        (["copy", "photos", "in/a", "--wat"], "--wat"),
        (["explain", "photos"], "KEY"),
        (["limit", "photos", "--requests", "-1"], "--requests"),
        (["limit", "photos", "--requests", "many"], "argument --requests: must be a number of requests a second above 0"),
        (["limit", "photos", "--concurrency", "1.5"], "argument --concurrency: must be a whole number"),
        (["limit", "photos", "--bandwidth", "fast"], "argument --bandwidth: must be a size such as 64MiB"),
        (["reconcile", "photos", "--requests", "0"], "argument --requests: must be a number of requests a second above 0"),
        (["history", "photos", "--check", "--head", "8d1f"], "argument --head: must be the 64 hex digits that --check prints"),
        (["report", "photos", "--state", "fine"], "argument --state: invalid choice"),
    ],
)
async def test_usage_ends_with_a_line_that_names_the_argument(desk: Site, doorstep: Doorstep, arguments: list[str], named: str) -> None:
    ended = await desk.starter(*arguments)

    assert (ended.code, ended.stdout) == (2, "")
    assert ended.problems[0].startswith("usage: starter.py")
    assert named in ended.problems[-1]
    assert not doorstep.visited()


# --- the configuration -----------------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], Any]


def _with(path: str, value: Any) -> Edit:
    def edit(document: dict[str, Any]) -> Any:
        *steps, last = path.split(".")
        found: Any = document
        for step in steps:
            found = found[int(step) if step.isdigit() else step]
        found[last] = value
        return document

    return edit


def _both(first: Edit, second: Edit) -> Edit:
    return lambda document: second(first(document))


CONFIGURATIONS: dict[str, tuple[Edit, list[str]]] = {
    "a YAML error": (lambda _: f"stores: {{a: {SECRET}\nroutes: [", ["drayage.yaml: line 2, column "]),
    "an unknown field": (_with("routes.0.overwite", "never"), ["routes[0].overwite: "]),
    "a literal secret": (_with("stores.weed.secret_access_key", SECRET), ["stores.weed.secret_access_key: "]),
    "an unknown store": (_with("routes.0.source.store", "wed"), ["routes[0].source.store: "]),
    "two problems": (
        _both(_with("temporal.task_queue", ""), _with("routes.0.overwrite", "always")),
        ["temporal.task_queue: is empty", "routes[0].overwrite: must be 'latest' or 'never'"],
    ),
}


@pytest.mark.parametrize("program", ["starter.py", "worker.py"])
@pytest.mark.parametrize("case", CONFIGURATIONS)
async def test_a_wrong_configuration_is_told_in_one_line_for_each_problem(
    desk: Site, good: dict[str, Any], doorstep: Doorstep, program: str, case: str
) -> None:
    edit, problems = CONFIGURATIONS[case]
    desk.write(edit(good))
    if program == "starter.py":
        ended = await desk.starter("copy", "photos", "in/a")
        assert_refused(ended, doorstep, *problems)
    else:
        ended = await desk.worker_ends()
        assert_refused(ended, doorstep, *problems, program="")

    assert SECRET not in ended.stderr


@pytest.mark.parametrize("program", ["starter.py", "worker.py"])
async def test_a_missing_configuration_is_told_with_the_ways_to_name_one(desk: Site, doorstep: Doorstep, program: str) -> None:
    told = "elsewhere.yaml: No such file or directory (--config PATH or DRAYAGE_CONFIG name the configuration)"
    if program == "starter.py":
        assert_refused(await desk.starter("status", "--config", "elsewhere.yaml"), doorstep, told)
        assert_refused(await desk.starter("status", DRAYAGE_CONFIG="elsewhere.yaml"), doorstep, told)
    else:
        assert_refused(await desk.worker_ends("--config", "elsewhere.yaml"), doorstep, told, program="")


async def test_a_worker_without_a_secret_of_its_routes_names_the_variable(desk: Site, doorstep: Doorstep) -> None:
    del desk.environ["SECRET"]
    ended = await desk.worker_ends()

    assert_refused(ended, doorstep, "stores.weed.secret_access_key: ", program="")
    assert "SECRET" in ended.stderr.replace("stores.weed.secret_access_key", "")


# --- nobody there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["copy", "photos", "in/a", "--wait"],
        ["retry", "photos"],
        ["housekeep"],
        ["schedule", "photos", "--every", "1h"],
        ["limit", "photos", "--requests", "1"],
        ["cancel", "photos"],
    ],
    ids=lambda found: found[0],
)
async def test_a_server_that_is_not_there_is_one_line_and_exit_code_3(desk: Site, good: dict[str, Any], arguments: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    desk.write({**good, "temporal": {"address": address}})
    ended = await desk.starter(*arguments)

    assert (ended.code, ended.stdout) == (3, "")
    (told,) = ended.problems
    assert told.startswith(f"starter.py: Temporal at {address} cannot be reached: ")


async def test_a_worker_without_a_server_is_one_line_and_exit_code_3(desk: Site, good: dict[str, Any]) -> None:
    address = f"127.0.0.1:{free_port()}"
    desk.write({**good, "temporal": {"address": address}})
    ended = await desk.worker_ends()

    assert (ended.code, ended.stdout) == (3, "")
    (told,) = ended.problems
    assert told.startswith(f"Temporal at {address} cannot be reached: ")


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["copy"], 2), (["status", "--config", "missing.yaml"], 2)])
def test_what_contacts_nobody_loads_no_client_library(arguments: list[str], code: int, tmp_path: Path) -> None:
    program = """
import sys
from cli.main import main
try:
    code = main()
except SystemExit as ended:
    code = ended.code
assert not {"temporalio", "boto3", "google.cloud", "sqlalchemy"} & set(sys.modules)
sys.exit(code)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
