"""The commands, their arguments, and how each ends: a command returns an exit code, and every error has one.

Each command's module is imported when it runs, so that `--help` and a wrong argument need none of the client libraries.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from cli.filters import add_filter_arguments, add_limit_arguments, count, since
from cli.output import Output, OutputLost, printable
from replication.errors import CertificateBroken, SettingsError, UsageError
from replication.units import parse_duration
from service.version import VERSION

Command = Coroutine[Any, Any, int]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="starter.py", description="Drayage keeps object stores in sync, durably.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"drayage {VERSION}")
    common = _common()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    _add_object_commands(command)
    _add_pass_commands(command)
    _add_steering_commands(command)
    _add_record_commands(command)
    _add_sync_command(commands)
    command("setup", "register search attributes, schedule housekeeping, migrate the ledger, check stores and buckets; repeatable")
    demo = command("demo", "replicate real objects between embedded servers; no configuration needed")
    demo.add_argument("--keep", action="store_true", help="leave the servers up until Ctrl-C")
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="PATH", help="configuration file (default: $DRAYAGE_CONFIG, then drayage.yaml)")
    common.add_argument("--json", action="store_true", help="JSON on standard output")
    return common


def _add_object_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    copy = command("copy", "start, or join, the object workflow of each key")
    copy.add_argument("route", metavar="ROUTE")
    copy.add_argument("keys", nargs="*", metavar="KEY", help="full object name in the source bucket")
    copy.add_argument("--from-file", metavar="FILE", help="read more keys from a file, one a line; - is standard input")
    copy.add_argument("--wait", action="store_true", help="wait until each object is settled, or rests")
    status = command("status", "what is going on: routes, open and failed objects, stores, workers")
    status.add_argument("route", nargs="?", metavar="ROUTE")
    explain = command("explain", "one object: both sides, the decision with its reason, its workflow")
    explain.add_argument("route", metavar="ROUTE")
    explain.add_argument("key", metavar="KEY")


def _add_pass_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    reconcile = command("reconcile", "one pass over a route: compare every key, copy and repair; backfill and migration are this")
    reconcile.add_argument("route", metavar="ROUTE")
    reconcile.add_argument("--dry-run", action="store_true", help="tell what would be done, one line for each difference")
    reconcile.add_argument("--wait", action="store_true", help="wait for the end, and tell it")
    verify = command("verify", "compare everything and write nothing; one line for each anomaly")
    verify.add_argument("route", metavar="ROUTE")
    verify.add_argument("--deep", action="store_true", help="read every byte of both sides")
    verify.add_argument(
        "--since", type=since, metavar="TIME", help="only what changed since on either side: a time, an age such as 7d, or `last`"
    )
    verify.add_argument("--certificate", type=Path, metavar="FILE", help="write a certificate of what was found right")
    verify.add_argument("--against", type=Path, metavar="FILE", help="compare with an earlier certificate")
    verify.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True, help="tell what was found at the end")
    for parser in (reconcile, verify):
        add_limit_arguments(parser)
        add_filter_arguments(parser, prefix=True)
    schedule = command("schedule", "passes of a route that begin by themselves; repeated, the interval is replaced")
    schedule.add_argument("route", metavar="ROUTE")
    schedule.add_argument("--every", metavar="DURATION", help="such as 1h")
    schedule.add_argument("--verify", action="store_true", help="the passes compare and write nothing")
    schedule.add_argument("--deep", action="store_true", help="with --verify: they read every byte of both sides")
    schedule.add_argument("--since-last", action="store_true", help="with --verify: they take what changed since the last one")
    schedule.add_argument("--delete", action="store_true", help="no such passes any more")
    limit = command("limit", "how fast the running pass of a route may go, from now on")
    limit.add_argument("route", metavar="ROUTE")
    add_limit_arguments(limit, lifts=True)
    for name, text in (
        ("cancel", "stop the running pass of a route; run again, it does only the rest"),
        ("undo", "forget the deletions that passes of a route have collected and not made"),
    ):
        command(name, text).add_argument("route", metavar="ROUTE")


def _add_record_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    from cli.states import STATES

    history = command("history", "every change that was made for one object, oldest first")
    history.add_argument("route", metavar="ROUTE")
    history.add_argument("key", nargs="?", metavar="KEY", help="full object name in the source bucket")
    history.add_argument("--check", action="store_true", help="instead: whether the whole trail of the route is as it was written")
    history.add_argument("--head", type=_head, metavar="HASH", help="with --check: a head that it printed before must be in the trail")
    report = command("report", "one line for each object of a route that the ledger knows")
    report.add_argument("route", metavar="ROUTE")
    report.add_argument("--state", choices=STATES, help="only those in this state")
    report.add_argument("--by-prefix", type=count, metavar="DEPTH", help="a line for each folder down to this depth instead")


def _add_steering_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    retry = command("retry", "start the failed and blocked objects of a route again, and wake the waiting ones")
    retry.add_argument("route", metavar="ROUTE")
    retry.add_argument("--reason", metavar="REASON", help="only those with this reason")
    for name, text in (
        ("pause", "hold open object workflows before their next step, and the pass of the route"),
        ("resume", "let what was paused go on"),
    ):
        steer = command(name, text)
        steer.add_argument("route", metavar="ROUTE")
        steer.add_argument("keys", nargs="*", metavar="KEY", help="default: every open object of the route, and its pass")
    approve = command("approve", "let the deletions of a route go on that were too many at once")
    approve.add_argument("route", metavar="ROUTE")
    housekeep = command("housekeep", "remove unfinished uploads and temporary parts that no open workflow owns")
    housekeep.add_argument("--older-than", type=_duration, default=86_400.0, metavar="DURATION", help="default: 24h")
    housekeep.add_argument("--dry-run", action="store_true", help="count what would be removed")
    housekeep.add_argument("--wait", action="store_true", help="wait for the end and tell the counts")


def _add_sync_command(commands: Any) -> None:
    text = "copy what is missing or differs from one place to another; no configuration and no server needed"
    where = "s3://bucket/prefix?endpoint=…, gs://bucket/prefix, file:///folder or a path"
    sync = commands.add_parser("sync", help=text, description=f"{text}. Interrupted, it goes on when run again.", allow_abbrev=False)
    sync.add_argument("source", metavar="SOURCE", help=where)
    sync.add_argument("destination", metavar="DESTINATION", help="the same")
    sync.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")
    sync.add_argument("--delete", action="store_true", help="delete replicas whose source is gone")
    sync.add_argument("--max-delete", type=count, metavar="N", help="hold the deletions if there are more (default: 1000, or half of all)")
    sync.add_argument("--approve", action="store_true", help="let the deletions go on that the last run held")
    add_filter_arguments(sync)
    add_limit_arguments(sync)
    sync.add_argument("--json", action="store_true", help="JSON on standard output")


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _head(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("must be the 64 hex digits that --check prints")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. argparse itself exits with 2 for arguments that it refuses."""
    options = build_parser().parse_args(arguments)
    try:
        return _run(_prepare(options))
    except (SettingsError, UsageError) as error:
        return _fail(error, 2)
    except (CertificateBroken, OutputLost) as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not stumble over it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _fail("interrupted", 130)
    except Exception as error:
        if not _is_unreachable(error):
            raise
        return _fail(error, 3)


def _fail(error: object, code: int) -> int:
    for line in str(error).splitlines() or [repr(error)]:
        print(f"starter.py: {printable(line)}", file=sys.stderr)
    return code


def _is_unreachable(error: Exception) -> bool:
    from temporalio.service import RPCError

    from replication.errors import Transient, Unavailable
    from workflows.client import TemporalUnreachable

    return isinstance(error, TemporalUnreachable | RPCError | Unavailable | Transient)


def _run(command: Command) -> int:
    """SIGTERM ends a command as Ctrl-C does: whatever it holds is released."""

    async def cancellable() -> int:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await command

    return asyncio.run(cancellable())


def _prepare(options: argparse.Namespace) -> Command:
    """The command, ready to run: arguments and configuration are read, nothing is contacted."""
    import logging

    from service.logs import configure_logging

    configure_logging(level=logging.WARNING)
    output = Output(as_json=options.json)
    if options.command == "demo":
        from cli.demo import run_demo

        return run_demo(keep=options.keep, json_output=options.json)

    if options.command == "sync":
        from cli import sync

        return sync.prepare(options, os.environ, output)

    from replication.settings import load_settings

    settings = load_settings(options.config, os.environ)
    from cli.session import Session

    return _dispatch(Session(settings, os.environ, output), options)


def _dispatch(session: Any, options: argparse.Namespace) -> Command:
    match options.command:
        case "copy":
            from cli import copy

            return copy.run(session, options.route, options.keys, from_file=options.from_file, wait=options.wait)
        case "reconcile" | "verify" | "schedule" | "limit" | "cancel" | "undo":
            return _pass_command(session, options)
        case "history":
            from cli import history

            return history.run(session, options.route, options.key, check=options.check, head=options.head)
        case "report":
            from cli import report

            return report.run(session, options.route, state=options.state, depth=options.by_prefix)
        case "status":
            from cli import status

            return status.run(session, options.route)
        case "explain":
            from cli import explain

            return explain.run(session, options.route, options.key)
        case "setup":
            from cli import setup

            return setup.run(session)
        case "retry":
            from cli import retry

            return retry.run(session, options.route, reason=options.reason)
        case "approve":
            from cli import approve

            return approve.run(session, options.route)
        case "housekeep":
            from cli import housekeep

            return housekeep.run(session, older_than_s=options.older_than, dry_run=options.dry_run, wait=options.wait)
        case name:
            from cli import steer

            return steer.run(session, name, options.route, options.keys)


def _pass_command(session: Any, options: argparse.Namespace) -> Command:
    match options.command:
        case "schedule":
            from cli import schedule

            return schedule.run(session, options)
        case "limit":
            from cli import limit

            return limit.run(session, options)
        case "cancel":
            from cli import cancel

            return cancel.run(session, options.route)
        case "undo":
            from cli import undo

            return undo.run(session, options.route)
        case "verify":
            from cli import verify

            return verify.run(session, options)
        case _:
            from cli import reconcile

            return reconcile.run(session, options)
