"""Redaction: the user's function over every text before it is embedded or stored (paper §4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shared_core.errors import ConfigurationError, RedactionFailed

Redact: TypeAlias = Callable[[str], str]


def check_redact(redact: Redact | None) -> None:
    """Check the type of `redact`.

    Raises:
        ConfigurationError: It is not callable.
    """
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"redact is {redact!r}; pass a function from str to str")


def redacted(text: str, redact: Redact | None) -> str:
    """`redact(text)`; `text` itself if there is no `redact`.

    If redaction fails, nothing is embedded or stored, and the request goes on without examples.

    Raises:
        RedactionFailed: `redact` raised, or did not return a string. The cause is not chained, because its message may
            contain the text.
    """
    if redact is None:
        return text
    try:
        result = redact(text)
    except Exception as error:  # noqa: BLE001  # the user's function may raise anything
        raise RedactionFailed(
            f"redact raised {type(error).__name__}; the text was neither embedded nor stored, fix the redact function"
        ) from None
    if not isinstance(result, str):
        raise RedactionFailed(
            f"redact must return str, not {type(result).__name__}; the text was neither embedded nor stored"
        )
    return result
