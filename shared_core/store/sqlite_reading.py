"""Reads the tables of a SQLite store: decodes values, reads around damaged pages, and counts what cannot be read."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar

from shared_core.records import PLACES
from shared_core.store.database import Database, listed
from shared_core.store.fields import Unreadable
from shared_core.store.sqlite_salvage import ROWS, Rows, around_damage, is_damage, one_by_one
from shared_core.telemetry import get_logger

log = get_logger("store")

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


def _may_be_stored(name: str) -> bool:
    """False for half a character (a lone surrogate): SQLite takes none, also not to compare with."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def is_sound(page: Rows | None) -> TypeGuard[Rows]:
    """False if a page came upon damage, or holds an id (in its second column) that is no text.

    Such an id comes before all texts for us, and after some of them for SQLite: no page could begin after it.
    """
    return page is not None and all(isinstance(row[1], str) for row in page)


class Reader:
    """Reads one database.

    Args:
        database: It.
        quiet: True if damage is looked for, and so no news.

    Attributes:
        unreadable: Number of values that could not be read; of damaged pages, the number of ranges or names.
    """

    def __init__(self, database: Database, *, quiet: bool = False) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._is_damaged = quiet
        self.unreadable = 0

    def decoded(self, decode: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The decoded value; None if it is unreadable."""
        try:
            return decode(*args, **kwargs)
        except Unreadable:
            self._count()
            return None

    def names(self, rows: Rows) -> list[str]:
        """The names in the first column, without those that are no texts."""
        names = [name for name, *_ in rows if isinstance(name, str)]
        self._count(len(rows) - len(names))
        return names

    def listed(
        self, select: str, before: Sequence[object], names: Sequence[str], column: str = "id", after: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement, such as ``SELECT a FROM b WHERE c = ? AND``, whose `column` is one of `names`.

        Args:
            select: The statement before the condition.
            before: Its parameters.
            names: The names.
            column: Where they stand.
            after: The statement after the condition.
        """

        def read(some: Sequence[str]) -> Rows:
            [(condition, chunk)] = listed(some, column)
            return self._database.read(f"{select} {condition} {after}", (*before, *chunk))

        for _, chunk in listed([name for name in names if _may_be_stored(name)], column):
            yield from one_by_one(read, chunk, self.lost)

    def around(self, columns: str, table: str, condition: str, parameters: Sequence[object]) -> Iterator[Rows]:
        """All rows that meet a condition, read by their row ids and around damaged pages; in no order."""
        sql = (
            f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? AND {condition} "  # noqa: S608 - constants
            f"ORDER BY rowid LIMIT {ROWS}"
        )
        count = self.read(f"SELECT COUNT(*) FROM {table} WHERE {condition}", parameters)  # noqa: S608 - constants
        before, missing = self.unreadable, count[0][0] if count else 0
        for rows in around_damage(
            lambda low, high: self._database.read(sql, (low, high, *parameters)), self._last(table), self.lost
        ):
            missing -= len(rows)
            yield rows
        if missing > self.unreadable - before:  # a damaged page may look like one that holds nothing
            self._count(missing - (self.unreadable - before))
            self.warn()

    def unless_damaged(self, read: Callable[[], T], otherwise: Callable[[], U]) -> T | U:
        """What `read` returns; what `otherwise` does if it came upon a damaged page."""
        try:
            return read()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.warn()
            return otherwise()

    def read(self, sql: str, parameters: Sequence[object] = ()) -> Rows | None:
        """The rows of a statement; None if it came upon a damaged page."""
        return self.unless_damaged(lambda: self._database.read(sql, parameters), lambda: None)

    def lost(self) -> None:
        """Count a value that a damaged page held."""
        self._count()
        self.warn()

    def warn(self) -> None:
        """Say once that the file is damaged."""
        with self._lock:
            is_new, self._is_damaged = not self._is_damaged, True
        if is_new:
            log.warning(
                "%s is damaged. IC-Cache goes on with what can be read, and counts the rest as store.unreadable; writes "
                "may fail. Stop the processes that use it, and run: iccache doctor %s --repair NEW.db",
                self._database.label,
                self._database.label,
            )

    def _last(self, table: str) -> int:
        """A row id that no row exceeds, from an index if the table has one."""
        newest = f"SELECT COALESCE(MAX(rowid + 0), 0) FROM {table}"  # noqa: S608 - a constant; the sum forbids the shortcut through the table's last page, which may be the damaged one
        rows = self.read(newest)
        return int(rows[0][0]) if rows else PLACES

    def _count(self, values: int = 1) -> None:
        with self._lock:
            self.unreadable += values
