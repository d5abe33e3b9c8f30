"""Addresses of stores without their passwords, for whatever is serialised or shown."""

from __future__ import annotations

import re
from typing import Final

from shared_core.errors import ConfigurationError

MASK: Final = "***"
_USER_INFO: Final = re.compile(r"(?<=://)([^/@?#]*:)[^@]*(?=@)")  # the password may hold a slash that was not escaped
_OPTION: Final = re.compile(r"(?<=[?&])(password=)[^&#]*", re.IGNORECASE)


def masked(url: str) -> str:
    """`url` with ``***`` for each password in it."""
    return _OPTION.sub(rf"\1{MASK}", _USER_INFO.sub(rf"\1{MASK}", url))


def unmasked(url: str) -> str:
    """`url`, if it can be opened.

    Raises:
        ConfigurationError: Its password was left out when it was serialised.
    """
    if MASK in url and masked(url) == url:
        raise ConfigurationError(
            "the store's password was left out when this was serialised; give the whole address again: "
            "from_dict(data, store='redis://…')"
        )
    return url
