"""What one LangChain call says beside its messages: whose it is, and which run.

LangChain shows `config` to a model's public methods and the keyword arguments to its private ones. So the public
methods of `ICCacheChatModel` pin what the config says into keyword arguments, and the private ones read those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from shared_core.adapters import KEYS, Context, current_context, parameters

RUN: Final = "iccache_run_id"
OURS: Final = KEYS | {RUN}

# In the metadata of a model's run: the decision that chose this model, which traces and streamed tokens then name.
DECISION: Final = "iccache_decision_id"
ARM: Final = "iccache_arm"

# What LangChain adds to the parameters that leave the answer free text: how it travels, and how long it may take.
FREE: Final = parameters.FREE | {"max_retries", "stream", "stream_options", "stream_usage", "timeout"}


QueryFunction: TypeAlias = Callable[[Sequence[BaseMessage]], str]


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
    context = Context.read(kwargs).over(_configured(config))
    if context_counts:
        context = context.over(current_context())
    run_id = (config or {}).get("run_id") or uuid7()
    identified = cast("RunnableConfig", {**(config or {}), "run_id": run_id})
    return identified, {**kwargs, **context.entries(), RUN: str(run_id)}


def call_context(kwargs: Mapping[str, Any], *, context_counts: bool) -> Context:
    """What a call says, as its private method sees it: arguments, then the running config, then `iccache_context`."""
    context = Context.read(kwargs)
    if RUN in kwargs:  # `pinned` has written everything into the arguments
        return context
    context = context.over(_configured(None))
    return context.over(current_context()) if context_counts else context


def _configured(config: RunnableConfig | None) -> Context:
    """What ``configurable`` says, in the given config or in the one that is running."""
    return Context.read(ensure_config(config).get("configurable") or {})
