"""The store that a command is to open."""

from __future__ import annotations

from shared_core.errors import ConfigurationError


def check_shared(url: str) -> None:
    """Refuse a store that this process cannot share with a service.

    Raises:
        ConfigurationError: It is in memory, its SQLite URL is invalid, or its SQLite file does not exist: opening it would
            create it, and hide a mistyped path.
    """
    if url == "memory://":
        raise ConfigurationError(
            "memory:// is another store in every process; name one that is shared, such as sqlite://"
        )
    if url.startswith("sqlite:"):
        from shared_core.store.address import sqlite_path  # numpy and SQLite, which other commands need not load

        if sqlite_path(url).exists():
            return
        raise ConfigurationError(f"{url} does not exist; name the file that your services write to")
