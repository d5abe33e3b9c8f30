"""Keeps what is bound to the router through later bindings, and passes tools and response formats to every arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel, RunnableSequence

from shared_core.adapters.context import Context
from shared_core.errors import kind_of


class BoundModel(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]  # the field `kwargs`
    """A router with bound arguments or config, which stay when tools or a schema are bound later.

    LangChain's own binding forwards `bind_tools` to the inner model and drops what was bound. So
    ``llm.bind(iccache_scope="acme").bind_tools(tools)`` would call in another tenant's scope.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """LangChain's own id: the serialised form is a `RunnableBinding`."""
        return RunnableBinding.lc_id()

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """`ICCacheChatModel.bind_tools`, with what is bound here kept."""
        model = self.bound
        return rebound(model.bind_tools(tools, **kwargs), model, self)  # type: ignore[attr-defined]  # a router

    def with_structured_output(self, schema: dict[str, Any] | type, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """`ICCacheChatModel.with_structured_output`, with what is bound here kept."""
        model = self.bound
        return rebound(model.with_structured_output(schema, **kwargs), model, self)  # type: ignore[attr-defined]

    def add_examples(self, pairs: Sequence[tuple[str, str]], **kwargs: Any) -> Sequence[str]:
        """`ICCacheChatModel.add_examples` with the bound scope and task."""
        context = Context.read(self.kwargs).over(Context.read(self.config.get("configurable") or {}))
        ids: Sequence[str] = self.bound.add_examples(pairs, **{"scope": context.scope, "task": context.task, **kwargs})  # type: ignore[attr-defined]
        return ids


def rebound(step: Runnable[Any, Any], arm: Runnable[Any, Any], router: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """`step` with `arm` replaced by `router`, in bindings and at the head of sequences and parallels.

    Raises:
        NotImplementedError: The arm is not found where LangChain's own classes have it.
    """
    if step is arm:
        return router
    if isinstance(step, RunnableBinding):
        return step.model_copy(update={"bound": rebound(step.bound, arm, router)})
    if isinstance(step, RunnableParallel):
        return RunnableParallel({name: rebound(part, arm, router) for name, part in step.steps__.items()})
    if isinstance(step, RunnableSequence):
        first, *rest = step.steps
        return RunnableSequence(rebound(first, arm, router), *rest)
    raise NotImplementedError(
        f"{type(arm).__name__} binds with {kind_of(step)}, which cannot be passed to every arm; bind the "
        "arguments yourself: llm.bind(tools=[…])"
    )
