"""The options that only `ICCacheChatModel` takes: fields of LangChain's base class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.rate_limiters import BaseRateLimiter

from shared_core.adapters.options import RoutingOptions
from shared_core.user_warning import warn_user

# LangChain's standard parameters of a client, which a model that asks others lacks.
CLIENT: Final = frozenset({"api_key", "base_url", "max_retries", "timeout"})


class ChatModelOptions(RoutingOptions, total=False):
    """The options of `ICCacheChatModel`: `RoutingOptions`, and fields of LangChain's `BaseChatModel`.

    Attributes:
        temperature: Default for calls that do not set it.
        max_tokens: Default for calls that do not set it.
        stop: Default for calls that do not set it.
        streaming: As in LangChain's own models.
        name: Name of the runs in traces.
        cache: LangChain's cache of answers: True for the global one, False for none, or a cache; by default the global
            one if it is set.
        verbose: Print the calls.
        callbacks: Handlers that observe every call.
        tags: Tags of every run in traces.
        metadata: Metadata of every run in traces.
        custom_get_token_ids: Counts tokens in place of LangChain's own tokenizer.
        rate_limiter: Limits how often calls start.
        disable_streaming: True never streams; ``"tool_calling"`` does not stream calls with tools.
        output_version: Format of the message content, e.g. ``"v1"``.
        profile: What the model can do, as LangChain describes it.
    """

    temperature: float | None
    max_tokens: int | None
    stop: list[str] | None
    streaming: bool
    name: str | None
    cache: BaseCache | bool | None
    verbose: bool
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    custom_get_token_ids: Callable[[str], list[int]] | None
    rate_limiter: BaseRateLimiter | None
    disable_streaming: bool | Literal["tool_calling"]
    output_version: str | None
    profile: ModelProfile | None


def without_client_options(
    options: Mapping[str, Any], where: str = "each arm has its own client; set it on the arms"
) -> dict[str, Any]:
    """The options without those of a client; warns about each of these, and says where to set it."""
    clients = sorted(options.keys() & CLIENT)
    if clients:
        warn_user(f"{', '.join(clients)}: ignored, because {where}")
    return {name: value for name, value in options.items() if name not in CLIENT}
