"""Where everything persists. `open_store` chooses by URL; `protocol.Store` says what a store does."""

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
        settings: Gives times to live, and what the Redis connection may take.
        clock: Decides what has expired.

    Raises:
        ConfigurationError: `url` names no store.
        StoreIsUnusable: The store cannot be opened, reached or used as it is set up.
        ExtraIsMissing: A Redis URL, without the package redis.
    """
    scheme = url.partition("://")[0]
    if url == "memory://":
        return SqliteStore(None, settings=settings, clock=clock)
    if scheme == "sqlite":
        path = _sqlite_path(url)
        try:
            return SqliteStore(path, settings=settings, clock=clock)
        except sqlite3.OperationalError as error:  # only busy: everything else has been explained
            raise StoreIsUnusable(f"{url}: {error}; another process has been writing to it, try again") from error
    if scheme in ("redis", "rediss", "unix"):
        from shared_core.store.redis import RedisStore  # the package redis is an extra

        try:
            return RedisStore.open(url, settings=settings, clock=clock)
        except OSError as error:
            reason = str(error).rstrip(".")
            raise StoreIsUnusable(f"{reason}; start the server, or correct the address") from error
    raise ConfigurationError(
        f"no store has the scheme {scheme!r}; use sqlite:///file.db, redis://host:port/db, rediss://host:port/db, "
        "unix:///path/to/redis.sock or memory://"
    )


def _sqlite_path(url: str) -> Path:
    path = url.removeprefix("sqlite:///")
    if path in (url, "", ":memory:"):
        raise ConfigurationError(
            f"{url!r} names no file; use sqlite:///relative.db, sqlite:////absolute/path.db, or memory://"
        )
    return Path(path)
