"""A chat model whose private methods learn what LangChain tells only its public ones: config, context, run id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig

from iccache_langchain.binding import BoundModel
from iccache_langchain.calls import RUN, pinned


class PinnedChatModel(BaseChatModel):
    """Pins scope, task and run id of each call into keyword arguments, which the private methods read.

    `strict_scope` trusts no `iccache_context` where a call is streamed (docs/decisions/0017-scope-of-a-call.md).
    """

    strict_scope: bool = False

    def bind(self, **kwargs: Any) -> BoundModel:  # type: ignore[override]  # LangChain names a private class
        """See `Runnable.bind`. What is bound stays when tools or a schema are bound on top."""
        return BoundModel(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> BoundModel:
        """See `Runnable.with_config`. The config stays when tools or a schema are bound on top."""
        merged = {**(config or {}), **kwargs}
        return BoundModel(bound=self, config=cast("RunnableConfig", merged), kwargs={})

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """One answer; see `BaseChatModel.invoke`."""
        config, kwargs = pinned(config, kwargs, context_counts=True)
        return super().invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """One answer; see `BaseChatModel.ainvoke`."""
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
        """The chunks of an answer; see `BaseChatModel.stream`. The scope is that of the caller of `stream`."""
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
        """The chunks of an answer; see `BaseChatModel.astream`. The scope is that of the caller of `astream`."""
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().astream(input, config, stop=stop, **kwargs)

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """The events of an answer; see `BaseChatModel.stream_events`."""
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().stream_events(input, config, **kwargs)

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """The events of an answer; see `BaseChatModel.astream_events`."""
        config, kwargs = pinned(config, kwargs, context_counts=not self.strict_scope)
        return super().astream_events(input, config, **kwargs)

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop(RUN, None)
        return super()._get_invocation_params(stop, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kwargs.pop(RUN, None)  # a response cache that saw the run would never hit
        return super()._get_llm_string(stop, **kwargs)
