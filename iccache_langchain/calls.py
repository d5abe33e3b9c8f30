"""What one LangChain call says beside its messages: whose it is, what binds its answer, what else identifies it.

LangChain shows `config` to a model's public methods and the keyword arguments to its private ones. So the public
methods of `ICCacheChatModel` pin what the config says into keyword arguments, and the private ones read those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7
from pydantic import BaseModel

from shared_core.adapters import KEYS, Context, current_context
from shared_core.values import canonical_json

RUN: Final = "iccache_run_id"
OURS: Final = KEYS | {RUN}

# Arguments that leave the answer free text. Whatever is not named here may bind it to a form (tools, a response
# format, a grammar within `extra_body`), so that an answer given under it is no example for one without.
_FREE: Final = frozenset(
    {
        "frequency_penalty", "max_completion_tokens", "max_output_tokens", "max_tokens", "max_retries", "metadata",
        "min_p", "model", "model_name", "n", "presence_penalty", "repetition_penalty", "seed", "stream",
        "stream_options", "stream_usage", "temperature", "timeout", "top_k", "top_p", "user",
    }
)  # fmt: skip


def pinned(
    config: RunnableConfig | None, kwargs: Mapping[str, Any], *, context_counts: bool
) -> tuple[RunnableConfig, dict[str, Any]]:
    """Config and keyword arguments of a call, its scope, task and run id written into the arguments.

    A stream that is consumed outside the `iccache_context` which it was made in keeps that context so.

    Args:
        config: As it was given to the public method.
        kwargs: As they were given to it.
        context_counts: False where `iccache_context` is not trusted to be the caller's own.
    """
    said = Context.read(kwargs).over(_configured(config))
    if context_counts:
        said = said.over(current_context())
    run_id = (config or {}).get("run_id") or uuid7()
    identified = cast("RunnableConfig", {**(config or {}), "run_id": run_id})
    return identified, {**kwargs, **said.entries(), RUN: str(run_id)}


def said_by(kwargs: Mapping[str, Any], *, context_counts: bool) -> Context:
    """What a call says, as its private method sees it: arguments, then the running config, then `iccache_context`."""
    said = Context.read(kwargs).over(_configured(None))
    return said.over(current_context()) if context_counts else said


def decision_id(run_id: UUID | str | None) -> str | None:
    """The decision id of a run; None if the run is not known."""
    return None if run_id is None else UUID(str(run_id)).hex


def form_of(kwargs: Mapping[str, Any], stop: list[str] | None) -> str:
    """Canonical JSON of what binds the answer to a form; empty for free text."""
    form = {name: _plain(value) for name, value in kwargs.items() if name not in _FREE and value not in (None, [], {})}
    if stop:
        form["stop"] = stop
    return canonical_json(form) if form else ""


def fingerprint_of(kwargs: Mapping[str, Any], stop: list[str] | None) -> str:
    """Canonical JSON of every argument of the call."""
    return canonical_json({"stop": stop or [], **{name: _plain(value) for name, value in kwargs.items()}})


def _configured(config: RunnableConfig | None) -> Context:
    """What ``configurable`` says, in the given config or in the one that is running."""
    return Context.read(ensure_config(config).get("configurable") or {})


def _plain(value: object) -> object:
    """`value` as JSON takes it; classes by name and schema, so that equal calls are equal in every process."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        schema = value.model_json_schema() if issubclass(value, BaseModel) else None
        return [value.__module__, value.__qualname__, schema]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
