"""Reads an answer's finish reason in the formats of the providers; decides which models are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PROVENANCE: Final = "iccache"  # the key of the decision in an answer's metadata

# Keys of the finish reason: OpenAI and Google, Anthropic, Ollama, OpenAI's Responses.
REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "status")
_CLEAN: Final = frozenset(
    {"stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed"}
    | {"tool_calls", "tool_use", "function_call"}
)


def is_trusted(writer: str, reference: str | None, *, never: str = "") -> bool:
    """True if a model's answers may become examples without feedback (paper §4.3).

    Args:
        writer: The model's name; empty if unknown.
        reference: The only trusted model; None trusts every model with a known name.
        never: A model that is not trusted even without a reference.
    """
    return writer == reference if reference else writer not in {"", never}


def finish_reason(metadata: Mapping[str, object]) -> str | None:
    """The finish reason, in the provider's word in lower case; None if there is none."""
    reasons = (metadata.get(key) for key in REASON_KEYS)
    return next((reason.lower() for reason in reasons if isinstance(reason, str) and reason), None)


def is_clean(reason: str | None) -> bool:
    """True if the finish reason is that of a complete answer, or if there is none."""
    return reason is None or reason in _CLEAN
