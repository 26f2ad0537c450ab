"""`reconcile ROUTE`: one pass, started or joined."""

from __future__ import annotations

import argparse

from cli import passes
from cli.filters import filters_of, limits_of
from cli.session import Session
from replication.passes import PassInput


async def run(session: Session, options: argparse.Namespace) -> int:
    """A dry run is always waited for: what it finds is all that it is for."""
    route = session.route(options.route)
    mode = "plan" if options.dry_run else "repair"
    asked = PassInput(route=route.name, mode=mode, filters=filters_of(options), limits=limits_of(options))
    return await passes.run(session, asked, wait=options.wait or options.dry_run)
