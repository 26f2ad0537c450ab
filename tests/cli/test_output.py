"""Standard output that is full, closed, or of an encoding without the letters of a key: no traceback, and a true exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from cli import passes
from cli.output import Output
from embedded.process import clean_environment
from replication.passes import PassInput, PassProgress
from tests.faults.rig import ROOT

SETTINGS = """
ledger: sqlite:///{folder}/ledger.db
stores: {{disk: {{type: file, root: {folder}}}}}
routes:
  - {{name: r, source: {{store: disk, bucket: a}}, destination: {{store: disk, bucket: b}}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A route, and a ledger that is empty."""
    path = tmp_path / "drayage.yaml"
    path.write_text(SETTINGS.format(folder=tmp_path))
    return path


def _starter(redirection: str, config: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "starter.py"), *arguments, "--config", str(config)]
    environment = {**clean_environment(), **variables}
    shell = ["sh", "-c", f'"$@" {redirection}', "sh", *command]
    return subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_full_standard_output_is_one_line_and_exit_code_1(config: Path) -> None:
    ended = _starter(">/dev/full", config, "history", "r", "--check")

    assert (ended.returncode, ended.stderr) == (1, "starter.py: standard output: No space left on device\n")


def test_a_closed_standard_output_changes_nothing_of_the_end(config: Path) -> None:
    ended = _starter(">&-", config, "history", "r", "--check")

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_letter_that_the_encoding_lacks_is_escaped() -> None:
    code = "from cli.output import Output; Output(as_json=False).line('\\u00fcn\\u00ef')"
    environment = {**clean_environment(), "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert (ended.returncode, ended.stdout) == (0, "\\xfcn\\xef\n")


def test_why_a_pass_failed_is_told_once() -> None:
    out, err = io.StringIO(), io.StringIO()
    cause = ApplicationError("404 NoSuchBucket", type="bucket-not-found", non_retryable=True)
    output, asked = Output(as_json=True, stdout=out, stderr=err), PassInput(route="r")

    assert passes.tell_failure(output, asked, WorkflowFailureError(cause=cause)) == 1
    assert err.getvalue() == "the pass of route r failed: bucket-not-found: 404 NoSuchBucket\n"
    assert {name: json.loads(out.getvalue())[name] for name in ("reason", "message")} == {
        "reason": "bucket-not-found", "message": "404 NoSuchBucket",
    }  # fmt: skip


def test_what_a_pass_waits_for_is_told_once_where_no_live_line_tells_it() -> None:
    err = io.StringIO()
    show = passes.tells_waits(Output(as_json=True, stderr=err))
    for state, problem in (("running", ""), *[("waiting", "no-space: full")] * 3, ("running", ""), ("waiting", "no-space: full")):
        show(PassProgress.model_validate({"route": "r", "state": state, "problem": problem}))

    assert err.getvalue().splitlines() == ["the pass of route r waits, and goes on by itself: no-space: full"] * 2
