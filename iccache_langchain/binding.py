"""Gives what was bound to one arm (tools, a response format) to the router, which sends it to every arm."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel, RunnableSequence


def rebound(step: Runnable[Any, Any], arm: BaseChatModel, router: BaseChatModel) -> Runnable[Any, Any]:
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
        f"{type(arm).__name__} binds through a {type(step).__name__}, which cannot be passed to every arm; bind the "
        "arguments yourself with .bind(…)"
    )
