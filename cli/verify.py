"""`verify ROUTE`: one pass that compares and writes nothing, and the certificate of what it found right."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cli import passes
from cli.filters import filters_of, limits_of
from cli.output import Output, printable
from cli.session import Session
from ledger.certificate import CertificateWriter, compare, verify_file
from ledger.ledger import Ledger
from ledger.rows import VerifiedLeaf
from replication.certificate import Leaf
from replication.errors import CertificateBroken, UsageError
from replication.passes import Filters, PassInput, PassResult
from replication.statement import Comparison, Statement
from replication.tree_diff import Change

LEAVES_PER_PAGE = 10_000


async def run(session: Session, options: argparse.Namespace) -> int:
    route = session.route(options.route)
    asked = pass_of(route.name, options)
    if not asked.certificate:
        return await passes.run(session, asked, wait=options.wait)
    await asyncio.to_thread(check_files, options, asked)
    closing = partial(certify, session.output, options.certificate, options.against)
    return await passes.run(session, asked, wait=True, closing=closing)


def pass_of(route: str, options: argparse.Namespace) -> PassInput:
    """What the arguments ask for."""
    filters, last = filters_of(options), options.since == "last"
    if options.since is not None and not last:
        filters = filters.model_copy(update={"since": options.since.seconds(time.time())})
    return PassInput(
        route=route,
        mode="verify",
        filters=filters,
        limits=limits_of(options),
        deep=options.deep,
        since_last=last,
        certificate=bool(options.certificate or options.against),
    )


def check_files(options: argparse.Namespace, asked: PassInput) -> None:
    """Before anything is begun: raises `UsageError` for files that cannot be used, `CertificateBroken` for one that proves nothing."""
    new, old = options.certificate, options.against
    flag = "--certificate" if new else "--against"
    if asked.filters != Filters() or asked.since_last:
        raise UsageError(f"argument {flag}: a certificate is of a whole route; leave the filters out")
    if not options.wait:
        raise UsageError(f"argument {flag}: not with --no-wait, for it is written at the end")
    if new and (new.is_dir() or not os.access(new.absolute().parent, os.W_OK)):
        raise UsageError(f"argument --certificate: cannot be written: {str(new)!r}")
    if old is None:
        return
    if new and new.exists() and old.exists() and new.samefile(old):
        raise UsageError("argument --against: is the file that --certificate would replace")
    try:
        statement = verify_file(old)
    except OSError as error:
        raise UsageError(f"argument --against: cannot be read: {str(old)!r} ({error.strerror})") from None
    if statement.route != asked.route:
        raise UsageError(f"argument --against: is a certificate of route {statement.route!r}")


async def certify(output: Output, certificate: Path | None, against: Path | None, ledger: Ledger, ended: PassResult) -> bool:
    """Writes the certificate, compares it, and drops what it was made of. True if anything changed since the earlier one."""
    with tempfile.TemporaryDirectory() as folder:
        path = certificate or Path(folder, "now")
        statement = await write(path, ledger, ended)
        output.line(printable(statement.sentence()))
        head = {name: value for name, value in statement.encode().items() if name != "exceptions"}
        output.document({"certificate": str(certificate or ""), "statement": statement.sentence(), **head})
        await ledger.drop_leaves(ended.route)
        if against is None:
            return False
        comparison = await asyncio.to_thread(compare, against, path)
    tell_comparison(output, ended.route, comparison)
    return not comparison.same


async def write(path: Path, ledger: Ledger, ended: PassResult) -> Statement:
    """Raises `CertificateBroken` where the ledger does not hold every object that the pass found right."""
    record = await ledger.find_pass(ended.pass_id)
    at = record.started_at if record is not None else time.time()
    written = 0
    with CertificateWriter(path, route=ended.route, at=at) as writer:
        async for page in leaves(ledger, ended.pass_id):
            await asyncio.to_thread(_add, writer, page)
            written += len(page)
        async for finding in passes.findings(ledger, ended.pass_id):
            writer.except_for(finding.key, finding.document["anomaly"])
        if written != ended.counters.skipped:
            raise CertificateBroken(
                f"no certificate: the ledger holds {written:,} of the {ended.counters.skipped:,} objects that were found right"
            )
        return writer.close()


async def leaves(ledger: Ledger, pass_id: str) -> AsyncIterator[list[VerifiedLeaf]]:
    after: str | None = None
    while page := await ledger.leaves(pass_id, after=after, limit=LEAVES_PER_PAGE):
        yield page
        after = page[-1].key


def _add(writer: CertificateWriter, page: list[VerifiedLeaf]) -> None:
    for leaf in page:
        writer.add(leaf.key, leaf.size_bytes, leaf.digest, leaf.level)  # type: ignore[arg-type]


def tell_comparison(output: Output, route: str, comparison: Comparison) -> None:
    """A line for each key, up to the limit of the comparison, and one for all."""
    for kind, changes in (("changed", comparison.changed), ("added", comparison.added), ("removed", comparison.removed)):
        for change in changes:
            output.line(printable(f"{kind:<22} {change.key}"))
            output.document({"route": route, "key": change.key, "change": kind, **_sides(change)})
    counts = {name: value for name, value in asdict(comparison).items() if name.endswith("_count") or name == "leaves_read"}
    told = f"{comparison.changed_count:,} changed, {comparison.added_count:,} added, {comparison.removed_count:,} removed"
    output.line(f"since the earlier certificate: {told}")
    output.document({"route": route, **counts})


def _sides(change: Change) -> dict[str, Any]:
    return {name: _leaf(leaf) for name, leaf in (("before", change.old), ("after", change.new)) if leaf is not None}


def _leaf(leaf: Leaf) -> dict[str, Any]:
    return {"size_bytes": leaf.size_bytes, "digest": leaf.digest}
