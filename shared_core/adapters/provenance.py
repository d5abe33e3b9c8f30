"""How an answer ended, in the words of the providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PROVENANCE: Final = "iccache"  # under this key of its metadata, an answer says how it came about

# Under these keys providers say why the model stopped: OpenAI and Google, Anthropic, Ollama, OpenAI's Responses.
REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "status")
_CLEAN: Final = frozenset(
    {"stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed"}
    | {"tool_calls", "tool_use", "function_call"}
)


def finish_reason(metadata: Mapping[str, object]) -> str | None:
    """Why the model stopped, in the provider's word in lower case; None if it did not say."""
    reasons = (metadata.get(key) for key in REASON_KEYS)
    return next((reason.lower() for reason in reasons if isinstance(reason, str) and reason), None)


def is_clean(reason: str | None) -> bool:
    """True if the model ended by itself, as does one that does not say why it stopped."""
    return reason is None or reason in _CLEAN
