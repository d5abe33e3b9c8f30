"""Who gave an answer and how it ended, in the words of the providers; whose answers are trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

PROVENANCE: Final = "iccache"  # under this key of its metadata, an answer says how it came about

# Under these names models say what they are called: in parameters, in the metadata of an answer, as attributes.
MODEL_KEYS: Final = ("model", "model_name", "model_id", "deployment_name")
# Under these keys providers say why the model stopped: OpenAI and Google, Anthropic, Ollama, OpenAI's Responses.
REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "status")
_CLEAN: Final = frozenset(
    {"stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed"}
    | {"tool_calls", "tool_use", "function_call"}
)


def named_model(read: Callable[[str], object]) -> str:
    """The name under which a model gives itself out; empty if it gives none.

    Args:
        read: Gives what stands under a name, or None: ``params.get``.
    """
    names = (read(key) for key in MODEL_KEYS)
    return next((name for name in names if isinstance(name, str) and name), "")


def is_trusted(writer: str, reference: str | None, *, never: str = "") -> bool:
    """True if a model's answers may become examples by themselves, without feedback (paper §4.3).

    Args:
        writer: The model; empty if it gives no name.
        reference: The only model that is trusted; without one, every model that gives its name is.
        never: Not trusted where no reference is named.
    """
    return writer == reference if reference else writer not in {"", never}


def finish_reason(metadata: Mapping[str, object]) -> str | None:
    """Why the model stopped, in the provider's word in lower case; None if it did not say."""
    reasons = (metadata.get(key) for key in REASON_KEYS)
    return next((reason.lower() for reason in reasons if isinstance(reason, str) and reason), None)


def is_clean(reason: str | None) -> bool:
    """True if the model ended by itself, as does one that does not say why it stopped."""
    return reason is None or reason in _CLEAN
