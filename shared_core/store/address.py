"""Removes passwords from store URLs before they are serialised or shown."""

from __future__ import annotations

import re
from typing import Final

from shared_core.errors import ConfigurationError

MASK: Final = "***"
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
