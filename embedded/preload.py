"""`python preload.py SCRIPT …` runs a script whose imports are done before it may begin: when a line comes on standard input.

Importing is most of what a worker's start takes, and nobody has to be there yet for it. Without the line the script never begins.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    script = sys.argv[1]
    sys.argv, sys.path[0] = sys.argv[1:], str(Path(script).parent)
    runpy.run_path(script)
    if sys.stdin.readline():
        runpy.run_path(script, run_name="__main__")
