"""Persistence. `open_store` opens the store of a URL; `protocol.Store` defines what a store does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from shared_core.errors import ConfigurationError, StoreIsAway, StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store.address import READ_ONLY, sqlite_path
from shared_core.store.protocol import Store
from shared_core.store.sqlite import SqliteStore
from shared_core.values import Clock


def open_store(url: str, *, settings: Settings, clock: Clock = time.time) -> Store:
    """Open the store that `url` names.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``sqlite:///~/home.db`` (with ``?mode=ro`` for
            reading only), ``memory://``, ``redis://…``, ``rediss://…`` or ``unix://…``.
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
        path = sqlite_path(url)
        try:
            return SqliteStore(path, settings=settings, clock=clock, read_only=url.endswith(READ_ONLY))
        except sqlite3.OperationalError as error:  # the file is busy; `Database` has translated every other error
            raise StoreIsUnusable(f"{url}: {error}; another process is writing to it, try again") from None
    if scheme in ("redis", "rediss", "unix"):
        from shared_core.store.redis import RedisStore  # the package redis is an extra

        try:
            return RedisStore.open(url, settings=settings, clock=clock)
        except OSError as error:
            reason = error.reason if isinstance(error, StoreIsAway) else str(error)
            raise StoreIsUnusable(f"{reason.rstrip('.')}; {_mend(error, url)}") from None
    if scheme.startswith("memory"):
        raise ConfigurationError("a store in memory has no name or path; use exactly memory://")
    named = f" {scheme!r}" if scheme.isalnum() and "://" in url else ""  # what else there is may hold a password
    raise ConfigurationError(
        f"unknown store scheme{named}; use sqlite:///file.db, redis://host:port/db, rediss://host:port/db, "
        "unix:///path/to/redis.sock or memory://"
    )


def _mend(error: OSError, url: str) -> str:
    """What to do about a Redis server that cannot be opened."""
    causes, is_tls = " ".join(str(cause) for cause in _causes(error)), url.startswith("rediss://")
    if "CERTIFICATE_VERIFY_FAILED" in causes:
        return "add ?ssl_ca_certs=/path/to/ca.pem to the URL, the certificate of the authority that signed the server's"
    if "[X509" in causes or "[SSL] PEM lib" in causes or (is_tls and "No such file or directory" in causes):
        return "correct the files that the URL names: ssl_ca_certs=, ssl_certfile=, ssl_keyfile="
    if "still loading" in causes:
        return "try again when it has, or let your service wait for it"
    other = "redis:// if it does not speak TLS" if is_tls else "rediss:// if it speaks TLS"
    return f"start the server, or correct the URL ({other})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
