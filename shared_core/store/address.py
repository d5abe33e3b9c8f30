"""Reads what names a store, and removes passwords from URLs before they are serialised or shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, TypeAlias

from typing_extensions import get_protocol_members

from shared_core.errors import ConfigurationError, kind_of
from shared_core.store.protocol import Store

StoreLike: TypeAlias = Store | str | Path
"""What a constructor takes as its store: an open one, a URL, or the path of a SQLite file."""

MASK: Final = "***"
SQLITE: Final = "sqlite:///"
READ_ONLY: Final = "?mode=ro"
# The password may contain an unescaped slash, and a mistyped URL may lack its colon or slashes.
_USER_INFO: Final = re.compile(r"(//[^/@?#]*:|^(?![^@]*//)[^/@?#]*:)[^@]*(?=@)")
_OPTION: Final = re.compile(r"(?<=[?&])((?:ssl_)?password=)[^&#]*", re.IGNORECASE)


def masked(url: str) -> str:
    """`url` with each password replaced by ``***``."""
    return _OPTION.sub(rf"\1{MASK}", _USER_INFO.sub(rf"\1{MASK}", url))


def unmasked(url: str) -> str:
    """`url`, unless its password is masked.

    Raises:
        ConfigurationError: The password was left out when the URL was serialised.
    """
    if MASK in url and masked(url) == url:
        raise ConfigurationError(
            "the store's password was left out when this was serialised; pass the full URL again: "
            "from_dict(data, store='redis://…')"
        )
    return url


def located(store: StoreLike) -> Store | str:
    """An open store as it is, anything else as a URL.

    Raises:
        ConfigurationError: It names no store. The URL itself is checked when it is opened.
    """
    if isinstance(store, Path):
        return f"{SQLITE}{store}"
    if isinstance(store, str) or all(hasattr(store, name) for name in get_protocol_members(Store)):
        return store
    raise ConfigurationError(
        f"store is {kind_of(store)}; pass a URL such as 'sqlite:///iccache.db', the path of a SQLite file, or an open store"
    )


def sqlite_path(url: str) -> Path:
    """The file of a SQLite URL; ``~`` is the user's folder.

    Raises:
        ConfigurationError: The URL names no file or one that SQLite cannot name, or has other options than ``?mode=ro``.
    """
    path, mark, options = url.removeprefix(SQLITE).removesuffix(READ_ONLY).partition("?")
    if not url.startswith(SQLITE) or path in ("", ":memory:") or "\0" in path:
        raise ConfigurationError(
            f"{masked(url)!r} has no file path; use sqlite:///relative.db, sqlite:////absolute/path.db, or memory://"
        )
    if mark:
        names = ", ".join(option.partition("=")[0] for option in options.split("&"))
        raise ConfigurationError(
            f"the SQLite URL has unknown options {names!r}; the only one is ?mode=ro, to read only"
        )
    try:
        path.encode()
        return Path(path).expanduser()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{masked(url)!r} has a character that SQLite takes in no path; use a path that is valid UTF-8"
        ) from None
    except RuntimeError:
        raise ConfigurationError(f"{url!r} begins with the home of a user who has none; write out the path") from None
