"""`starter.py sync …` with the stub in place of `worker.py`, and little patience."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    from cli import main, sync_engine, sync_pass
    from service.leaving import leave

    sync_engine.WORKER = Path(__file__).with_name("stub_worker.py")
    sync_pass.WAITING_S = 1.5
    leave(main.main())
