"""Many rows in one statement: `executemany` on SQLite, arrays on PostgreSQL, which is one round trip and one plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Table, and_, bindparam, delete, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from ledger.engine import is_postgres

Values = dict[str, Any]


def encode_key(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def decode_key(key: Any) -> str:
    return bytes(key).decode("utf-8", "surrogatepass")


def upsert(
    connection: Connection, table: Table, rows: Sequence[Values], *, kept: tuple[str, ...] = (), added: tuple[str, ...] = ()
) -> None:
    """Inserts, or replaces the row of the same primary key: all columns but those `kept`; the numbers `added` are summed.

    No two rows may have the same primary key.
    """
    _execute(connection, _upsert(table, is_postgres(connection), kept, added), table.columns, rows)


def insert(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    _execute(connection, _insert(table, is_postgres(connection)), table.columns, rows)


def remove(connection: Connection, table: Table, rows: Sequence[Values], *, unless: Values | None = None) -> int:
    """Deletes by primary key, but not where a column has a value of `unless`; how many there were."""
    statement = _remove(table, is_postgres(connection))
    for name, value in (unless or {}).items():
        statement = statement.where(table.c[name] != literal(value))
    return _execute(connection, statement, table.primary_key.columns, rows)


def _execute(connection: Connection, statement: Any, columns: Any, rows: Sequence[Values]) -> int:
    if not rows:
        return 0
    values: Sequence[Values] | Mapping[str, list[Any]] = rows
    if is_postgres(connection):
        values = {column.name: [row[column.name] for row in rows] for column in columns}
    return connection.execute(statement, values).rowcount


@cache
def _insert(table: Table, postgres: bool) -> Any:
    if not postgres:
        return sqlite.insert(table)
    return postgresql.insert(table).from_select(list(table.columns), select(_arrays(tuple(table.columns))))


@cache
def _upsert(table: Table, postgres: bool, kept: tuple[str, ...], added: tuple[str, ...]) -> Any:
    statement = _insert(table, postgres)
    new = {column.name: statement.excluded[column.name] for column in table.columns}
    replaced = {name: value for name, value in new.items() if not table.c[name].primary_key and name not in kept}
    summed = {name: table.c[name] + new[name] for name in added}
    keys = list(table.primary_key.columns)
    if not replaced | summed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=replaced | summed)


@cache
def _remove(table: Table, postgres: bool) -> Any:
    keys = tuple(table.primary_key.columns)
    if not postgres:
        return delete(table).where(*(column == bindparam(column.name) for column in keys))
    given = _arrays(keys)
    return delete(table).where(and_(*(column == given.c[column.name] for column in keys)))


def _arrays(columns: tuple[Column[Any], ...]) -> Any:
    """The bound arrays, one of each column, side by side as a table."""
    bound = (bindparam(column.name, type_=ARRAY(column.type)) for column in columns)
    return func.unnest(*bound).table_valued(*(column.name for column in columns)).render_derived(name="given")
