"""A chat model whose private methods get the config, context and run id that LangChain gives only to public ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from iccache_langchain.binding import BoundModel
from iccache_langchain.calls import pinned
from shared_core.adapters.context import RUN


class PinnedChatModel(BaseChatModel):
    """Writes scope, task and run id of each call into keyword arguments, which the private methods read.

    With `strict_scope`, a streamed call ignores `iccache_context` (docs/decisions/0017-scope-of-a-call.md).
    """

    strict_scope: bool = False

    def bind(self, **kwargs: Any) -> BoundModel:  # type: ignore[override]  # LangChain names a private class
        """Bind arguments, which stay when tools or a schema are bound later."""
        return BoundModel(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> BoundModel:
        """Bind a config, which stays when tools or a schema are bound later."""
        merged = {**(config or {}), **kwargs}
        return BoundModel(bound=self, config=cast("RunnableConfig", merged), kwargs={})

    @override
    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        config, kwargs = pinned(config, kwargs, context_counts=True)
        return super().invoke(input, config, stop=stop, **kwargs)

    @override
    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        config, kwargs = pinned(config, kwargs, context_counts=True)
        return await super().ainvoke(input, config, stop=stop, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream the chunks of an answer. The scope is read when `stream` is called."""
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().stream(input, config, stop=stop, **kwargs)

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream the chunks of an answer. The scope is read when `astream` is called."""
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().astream(input, config, stop=stop, **kwargs)

    @override
    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().stream_events(input, config, **kwargs)

    @override
    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().astream_events(input, config, **kwargs)

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop(RUN, None)
        return super()._get_invocation_params(stop, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kwargs.pop(RUN, None)  # with the run id in its key, a response cache would never hit
        return super()._get_llm_string(stop, **kwargs)
