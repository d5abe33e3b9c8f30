"""Reads scope, task and run id of a LangChain call.

LangChain passes `config` to a model's public methods only, and keyword arguments to its private ones. So the public
methods of `ICCacheChatModel` copy values from the config into keyword arguments, and the private methods read those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from shared_core.adapters import parameters
from shared_core.adapters.context import KEYS, RUN, Context, current_context

OWN_KEYS: Final = KEYS | {RUN}

# LangChain's own parameters that leave the answer free text: transport and time limits.
FREE: Final = parameters.FREE | {"max_retries", "stream", "stream_options", "stream_usage", "timeout"}

BY_CONFIG: Final = "set it in config={'configurable': {'iccache_scope': …}}"
SCOPE_ADVICE: Final = f"{BY_CONFIG}, or use iccache_context(scope=…)"
"""How a call that gets no arguments of ours gets a scope."""

QueryFunction: TypeAlias = Callable[[Sequence[BaseMessage]], str]


def pinned(
    config: RunnableConfig | None, kwargs: Mapping[str, Any], *, context_counts: bool
) -> tuple[RunnableConfig, dict[str, Any]]:
    """The call's config and keyword arguments, with scope, task and run id written into the arguments.

    So a stream keeps the `iccache_context` of its caller even if it is read outside of it.

    Args:
        config: The public method's config.
        kwargs: The public method's keyword arguments.
        context_counts: False to ignore `iccache_context`, where it may not be the caller's own.
    """
    context = Context.read(kwargs).over(_configured(config))
    if context_counts:
        context = context.over(current_context())
    run_id = (config or {}).get("run_id") or uuid7()
    identified = cast("RunnableConfig", {**(config or {}), "run_id": run_id})
    return identified, {**kwargs, **context.entries(), RUN: str(run_id)}


def call_context(kwargs: Mapping[str, Any], *, context_counts: bool) -> Context:
    """Scope and task in a private method, by precedence: arguments, the running config, `iccache_context`."""
    context = Context.read(kwargs)
    if RUN in kwargs:  # `pinned` has copied everything into the arguments
        return context
    context = context.over(_configured(None))
    return context.over(current_context()) if context_counts else context


def _configured(config: RunnableConfig | None) -> Context:
    """Scope and task in ``configurable`` of the given config, else of the running config."""
    return Context.read(ensure_config(config).get("configurable") or {})
