"""LangChain models as a `Model`, for calls off the request path, e.g. of a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable, RunnableBinding

from iccache_langchain.answers import described
from iccache_langchain.arms import ArmModel, generate, model_name
from iccache_langchain.chat_from_model import ChatFromModel
from iccache_langchain.messages import as_messages, outcome_of
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.provenance import finish_reason
from shared_core.errors import ConfigurationError, kind_of
from shared_core.inference import Completion, Model
from shared_core.inference.framework import FrameworkModel, Wanted, own_fields, secrets_of
from shared_core.values import Insertion, Message

_WANTED: Final = ("max_tokens", "temperature", "timeout")


def as_model(llm: Runnable[Any, Any], name: str | None = None) -> Model:
    """A LangChain chat model or completion model as a `Model`.

    The calls use the model's private `_generate`, so caches, callbacks and IC-Cache do not see them. Calls are allowed
    from any thread, and within an event loop, which they block.

    `max_tokens`, `temperature`, `n` and `timeout` are set on the model's own fields. Without such a field, the model
    answers as it was built, and n answers take n calls. Arguments that are bound to the model are sent with every call
    and override those of the call: ``as_model(llm.bind(temperature=1))``. `timeout` always holds for the caller. A
    model without its own time limit blocks the thread of a timed-out call until it answers, so build it with one.

    Args:
        llm: A chat model, a completion model, or one of these with bound arguments.
        name: Its name in records; by default the model's own name.

    Raises:
        ConfigurationError: It is something else, or a router.
    """
    model, bound = _unbound(llm, {})
    if isinstance(model, ChatFromModel) and not bound and name is None:
        return model.model
    return FrameworkModel(name or model_name(model), partial(_ask, model, bound), secrets_of(model))


def _unbound(llm: object, bound: Mapping[str, Any]) -> tuple[ArmModel, Mapping[str, Any]]:
    """The inner model, and its bound arguments; the latest binding wins."""
    if isinstance(llm, RunnableBinding):
        return _unbound(llm.bound, {**llm.kwargs, **bound})
    if isinstance(llm, EngineOwner):
        raise ConfigurationError(f"{kind_of(llm)} is a router, not a single model; pass one of its arms")
    if not isinstance(llm, BaseChatModel | BaseLLM):
        raise ConfigurationError(
            f"{kind_of(llm)} is not a LangChain chat model or completion model; pass the model itself, without "
            "fallbacks and parsers, and set retries on it"
        )
    return llm, bound


def _ask(model: ArmModel, bound: Mapping[str, Any], messages: Sequence[Message], wanted: Wanted) -> Completion:
    arguments = dict(bound)
    if "request_timeout" in type(model).model_fields:  # OpenAI's and similar clients, which exist before the call
        arguments.setdefault("timeout", wanted.timeout)
    stop = arguments.pop("stop", None)
    takes_n = wanted.n > 1 and not getattr(model, "use_responses_api", False)  # OpenAI's Responses API has no n
    fields = own_fields(model, wanted, (*_WANTED, "n") if takes_n else _WANTED)
    configured = model.model_copy(update=fields) if fields else model
    limiter = getattr(model, "rate_limiter", None)
    if limiter is not None:
        limiter.acquire(blocking=True)
    return _completion(generate(configured, as_messages(messages), Insertion(), stop, None, **arguments))


def _completion(result: ChatResult) -> Completion:
    """The answers of one call. Each answer's usage holds the tokens of all answers."""
    answers = [described(generation, result.llm_output) for generation in result.generations]
    outcomes = [outcome_of(answer) for answer in answers]
    logprobs = tuple(_logprobs(answer) for answer in answers)
    return Completion(
        texts=tuple(outcome.answer for outcome in outcomes),
        finish_reasons=tuple(finish_reason(answer.response_metadata) or "" for answer in answers),
        prompt_tokens=outcomes[0].prompt_tokens if outcomes else 0,
        completion_tokens=outcomes[0].completion_tokens if outcomes else 0,
        cached_tokens=outcomes[0].cached_tokens if outcomes else 0,
        logprobs=logprobs if all(logprobs) else (),
    )


def _logprobs(answer: AIMessage) -> tuple[float, ...]:
    """Log-probabilities per token in the format of OpenAI's integration (a model built with ``logprobs=True``)."""
    found = answer.response_metadata.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    return tuple(token["logprob"] for token in content or ())
