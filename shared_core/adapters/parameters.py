"""Reads a call's parameters: the form of the answer that they demand, the call's fingerprint, and if it is routed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from shared_core.errors import ConfigurationError
from shared_core.text import canonical_json

# Parameters that leave the answer one free text. Every other parameter may determine its form (tools, a response
# format, a grammar in `extra_body`), so its answers must not become examples for calls without it. Adapters add their
# framework's parameters for time limits and transport.
FREE: Final = frozenset(
    {
        "extra_headers", "extra_query", "frequency_penalty", "max_completion_tokens", "max_output_tokens", "max_tokens",
        "metadata", "min_p", "model", "model_name", "n", "presence_penalty", "prompt_cache_key",
        "prompt_cache_retention", "repetition_penalty", "safety_identifier", "seed", "service_tier", "store",
        "temperature", "top_k", "top_p", "user",
    }
)  # fmt: skip


def form_of(params: Mapping[str, object], stop: Sequence[str] | None = None, *, free: frozenset[str] = FREE) -> str:
    """Canonical JSON of the parameters that determine the answer's form; empty for free text.

    Args:
        params: The call's parameters.
        stop: The stop strings, which belong to the form.
        free: Names of parameters that leave the answer free text.
    """
    form = {name: plain(value) for name, value in params.items() if name not in free and value not in (None, [], {})}
    if stop:
        form["stop"] = list(stop)
    return canonical_json(form) if form else ""


def fingerprint_of(params: Mapping[str, object], stop: Sequence[str] | None = None) -> str:
    """Canonical JSON of every parameter of the call."""
    return canonical_json({"stop": list(stop or ()), **{name: plain(value) for name, value in params.items()}})


def bypass_of(params: Mapping[str, object]) -> str:
    """Why a call with these parameters is not routed; empty if it is."""
    return "the call names its own model" if "model" in params else ""


def decision_id(given: UUID | str) -> str:
    """The decision id of a run id, or the given decision id."""
    if isinstance(given, UUID):
        return given.hex
    try:
        return UUID(given).hex
    except ValueError:
        return given


def rated_id(given: object) -> str:
    """The decision id that feedback names: a run id, or the id in an answer's provenance.

    Raises:
        ConfigurationError: It is neither. The message does not quote it, because it may be an answer's text.
    """
    if isinstance(given, UUID | str):
        try:
            return UUID(str(given)).hex
        except ValueError:
            pass
    what = "text" if isinstance(given, str) else type(given).__name__
    raise ConfigurationError(
        f"this {what} is not the id of an answer, a UUID or its 32 hex digits; pass the answer itself, or the "
        "decision_id in its 'iccache' metadata"
    )


def plain(value: object) -> object:
    """`value` as JSON; classes become name and schema, which are equal in every process."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, type):
        schema = value.model_json_schema() if issubclass(value, BaseModel) else None
        return [value.__module__, value.__qualname__, schema]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
