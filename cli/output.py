"""What a command says: lines and tables for people, JSON for programs, both on standard output; notes on standard error.

Keys are untrusted text: a terminal gets them with their control characters escaped, and never as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any, TextIO


class OutputLost(Exception):
    """Standard output takes no more; the message says why in one line."""


class Output:
    """With `as_json`, `line` and `table` are silent and `document` prints; without, it is the other way round."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        if stdout is None and isinstance(sys.stdout, TextIOWrapper):
            # An encoding that lacks a letter of a key, of the locale or of PYTHONIOENCODING, gets it escaped.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._stderr = stderr or sys.stderr

    @property
    def on_terminal(self) -> bool:
        return not self.as_json and self._stdout.isatty()

    def line(self, text: str = "") -> None:
        if not self.as_json:
            self._print(text)

    def document(self, document: Mapping[str, Any]) -> None:
        """One JSON document on one line, in ASCII."""
        if self.as_json:
            self._print(json.dumps(document, default=str))

    def note(self, text: str) -> None:
        """A line about the command itself, on standard error."""
        print(printable(text), file=self._stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """A drawn table on a terminal, aligned columns elsewhere. Nothing when there are no rows."""
        if self.as_json or not rows:
            return
        cells = [[printable(cell) for cell in row] for row in rows]
        if self.on_terminal:
            self._draw(columns, cells, title)
        else:
            for text in plain_table(columns, cells, title):
                self._print(text)

    def _draw(self, columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self._stdout, highlight=False).print(table)

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._stdout, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(f"standard output: {error.strerror}") from None


def printable(text: str) -> str:
    """`text` with everything that is not printable escaped, so that no key can steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def moment(seconds: float) -> str:
    """A time in seconds since 1970 as RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> list[str]:
    """Aligned lines, two spaces between columns, none at the end of a line."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (columns, *rows)]
    return [title, *lines] if title else lines
