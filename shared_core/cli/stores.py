"""The store that a command is to open."""

from __future__ import annotations

from pathlib import Path

from shared_core.errors import ConfigurationError


def check_shared(url: str) -> None:
    """Refuse a store that this process cannot share with a service.

    Raises:
        ConfigurationError: It is in memory, or its SQLite file does not exist: opening it would create it, and hide a
            mistyped path.
    """
    if url == "memory://":
        raise ConfigurationError(
            "memory:// is another store in every process; name one that is shared, such as sqlite://"
        )
    file = url.removeprefix("sqlite:///").removesuffix("?mode=ro")
    if file not in (url, "", ":memory:") and not Path(file).exists():
        raise ConfigurationError(f"{url} does not exist; name the file that your services write to")
