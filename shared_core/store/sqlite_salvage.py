"""Reads around the damaged pages of a SQLite file.

SQLite refuses a statement that comes upon a page which it cannot read. A statement for fewer rows may not come upon it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

Rows: TypeAlias = list[tuple[Any, ...]]

ROWS: Final = 500  # of one statement
COARSE: Final = 16  # after so many row ids that were lost in a row, ranges of two are no longer split
MOST_REFUSED: Final = 5000  # statements that may be refused in one scan; each takes some tens of microseconds

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def is_damage(error: sqlite3.Error) -> bool:
    """True if SQLite came upon a page that it cannot read."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def around_damage(read: Callable[[int, int], Rows], last: int, lost: Callable[[], object]) -> Iterator[Rows]:
    """The rows that can be read, in order of their row ids, in lists; without their row ids.

    Args:
        read: Reads the first `ROWS` rows from one row id to another, both included; the first column is the row id.
        last: The largest row id.
        lost: Called for each range that cannot be read. It is one row id at first, and grows while nothing can be read.
    """
    refused = gone = 0  # of `gone`, the row ids that were lost since the last row
    ranges = [(1, last)]
    while ranges:
        low, high = ranges.pop()
        try:
            rows = read(low, high)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            refused += 1
            if high - low <= gone // COARSE or refused > MOST_REFUSED:
                lost()
                gone += high - low + 1
            else:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
            continue
        if len(rows) == ROWS:
            ranges.append((rows[-1][0] + 1, high))
        if rows:
            gone = 0
            yield [row[1:] for row in rows]


def one_by_one(read: Callable[[Sequence[str]], Rows], names: Sequence[str], lost: Callable[[], object]) -> Rows:
    """The rows of `names`: in one statement, or in one for each name if that is refused."""
    try:
        return read(names)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if len(names) == 1:
            lost()
            return []
    return [row for name in names for row in one_by_one(read, [name], lost)]
