"""Persistence. `open_store` opens the store of a URL; `protocol.Store` defines what a store does."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from shared_core.errors import ConfigurationError, StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.store.sqlite import SqliteStore
from shared_core.values import Clock


def open_store(url: str, *, settings: Settings, clock: Clock = time.time) -> Store:
    """Open the store that `url` names.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``memory://``, ``redis://…``, ``rediss://…`` or
            ``unix://…``.
        settings: Settings; a store uses the times to live.
        clock: Seconds since the epoch, to decide what has expired.

    Raises:
        ConfigurationError: `url` is not the URL of a store.
        StoreIsUnusable: The store cannot be opened, reached or used with its configuration.
        ExtraIsMissing: A Redis URL, and the package redis is not installed.
    """
    scheme = url.partition("://")[0]
    if url == "memory://":
        return SqliteStore(None, settings=settings, clock=clock)
    if scheme == "sqlite":
        path = _sqlite_path(url)
        try:
            return SqliteStore(path, settings=settings, clock=clock)
        except sqlite3.OperationalError as error:  # the file is busy; `Database` has translated every other error
            raise StoreIsUnusable(f"{url}: {error}; another process is writing to it, try again") from error
    if scheme in ("redis", "rediss", "unix"):
        from shared_core.store.redis import RedisStore  # the package redis is an extra

        try:
            return RedisStore.open(url, settings=settings, clock=clock)
        except OSError as error:
            reason = str(error).rstrip(".")
            raise StoreIsUnusable(f"{reason}; start the server, or correct the URL") from error
    if scheme.startswith("memory"):
        raise ConfigurationError("a store in memory has no name or path; use exactly memory://")
    raise ConfigurationError(
        f"unknown store scheme {scheme!r}; use sqlite:///file.db, redis://host:port/db, rediss://host:port/db, "
        "unix:///path/to/redis.sock or memory://"
    )


def _sqlite_path(url: str) -> Path:
    path = url.removeprefix("sqlite:///")
    if path in (url, "", ":memory:"):
        raise ConfigurationError(
            f"{url!r} has no file path; use sqlite:///relative.db, sqlite:////absolute/path.db, or memory://"
        )
    return Path(path)
