"""Which failures of a store may pass by themselves."""

from __future__ import annotations

import sqlite3
from typing import Final

from shared_core.errors import ICCacheError, StoreIsAway

_TEMPORARY: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreRefuses(ICCacheError, OSError):
    """The store answers, and refuses this call for what it asks; the same call would be refused again."""


def is_temporary(error: BaseException) -> bool:
    """True if the same call may succeed later: the store is away, busy or full. False for what a person must change."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _TEMPORARY
    return isinstance(error, StoreIsAway) or (isinstance(error, OSError) and not isinstance(error, ICCacheError))
