"""The command line of Drayage: `python starter.py COMMAND …`. Everything behind it is in `cli/`."""

from __future__ import annotations

from cli.main import main
from service.leaving import leave

if __name__ == "__main__":
    leave(main())
