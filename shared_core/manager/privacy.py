"""Redaction: the caller's own function over every text before it is embedded or stored (paper §4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shared_core.errors import ConfigurationError, RedactionFailed

Redact: TypeAlias = Callable[[str], str]


def check_redact(redact: Redact | None) -> None:
    """Refuse what is not a function.

    Raises:
        ConfigurationError: See above.
    """
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"redact is {redact!r}; give a function")


def redacted(text: str, redact: Redact | None) -> str:
    """`text` after `redact`, or as it is if there is none.

    Redaction that fails must not let the text through: this raises, so nothing is embedded or stored, and the
    request itself goes on without examples.

    Raises:
        RedactionFailed: `redact` raised, or returned no string. The message holds nothing of the text, which a
            chained traceback might, so the cause is not shown with it.
    """
    if redact is None:
        return text
    try:
        result = redact(text)
    except Exception as error:  # noqa: BLE001  # whatever the caller's function raises
        raise RedactionFailed(
            f"redact raised {type(error).__name__}; the text was neither embedded nor stored, repair redact"
        ) from None
    if not isinstance(result, str):
        raise RedactionFailed(
            f"redact returned {type(result).__name__}, not str; the text was neither embedded nor stored"
        )
    return result
