"""LangChain's models as a `Model`: what IC-Cache asks off the request path, such as a judge."""

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
from shared_core.errors import ConfigurationError
from shared_core.inference import Completion, Model
from shared_core.inference.framework import FrameworkModel, Wanted, own_fields, secrets_of
from shared_core.values import Insertion, Message

_WANTED: Final = ("max_tokens", "temperature", "timeout")


def as_model(llm: Runnable[Any, Any], name: str | None = None) -> Model:
    """A chat model or completion model of LangChain's as a `Model`.

    The calls are the model's own `_generate`: no cache, no callback and no surface of IC-Cache sees them. They may be
    made from any thread, and from within an event loop, which they block.

    `max_tokens`, `temperature`, `n` and `timeout` go to the fields that the model has for them. A model without such a
    field answers as it was built; n answers are then asked for one after the other. Arguments that are bound to the
    model are sent with every call, and count before those of the call: ``as_model(llm.bind(temperature=1))``. `timeout`
    holds for the caller in any case. A model that has no time limit of its own keeps the thread of a call that was given
    up until it answers; so build it with one.

    Args:
        llm: A chat model, a completion model, or one of these with arguments bound.
        name: How it is named in records; by default as the model calls itself.

    Raises:
        ConfigurationError: It is something else, or routes by itself.
    """
    model, bound = _unbound(llm, {})
    if isinstance(model, ChatFromModel) and not bound and name is None:
        return model.model
    return FrameworkModel(name or model_name(model), partial(_ask, model, bound), secrets_of(model))


def _unbound(llm: object, bound: Mapping[str, Any]) -> tuple[ArmModel, Mapping[str, Any]]:
    """The model within, and all that is bound to it; what was bound last counts."""
    if isinstance(llm, RunnableBinding):
        return _unbound(llm.bound, {**llm.kwargs, **bound})
    if isinstance(llm, EngineOwner):
        raise ConfigurationError(
            f"a {type(llm).__name__} routes, so it is not asked as one model; give one of its arms"
        )
    if not isinstance(llm, BaseChatModel | BaseLLM):
        raise ConfigurationError(
            f"a {type(llm).__name__} is not a chat model or completion model of LangChain's; give the model itself, with "
            "its retries set on it, without fallbacks and parsers"
        )
    return llm, bound


def _ask(model: ArmModel, bound: Mapping[str, Any], messages: Sequence[Message], wanted: Wanted) -> Completion:
    arguments = dict(bound)
    if "request_timeout" in type(model).model_fields:  # OpenAI's client and its kin, built before the call
        arguments.setdefault("timeout", wanted.timeout)
    stop = arguments.pop("stop", None)
    takes_n = wanted.n > 1 and not getattr(model, "use_responses_api", False)  # OpenAI's Responses API knows no n
    fields = own_fields(model, wanted, (*_WANTED, "n") if takes_n else _WANTED)
    asked = model.model_copy(update=fields) if fields else model
    limiter = getattr(model, "rate_limiter", None)
    if limiter is not None:
        limiter.acquire(blocking=True)
    return _completion(generate(asked, as_messages(messages), Insertion(), stop, None, **arguments))


def _completion(result: ChatResult) -> Completion:
    """The answers of one call; each of them names the tokens of all."""
    answers = [described(generation, result.llm_output) for generation in result.generations]
    outcomes = [outcome_of(answer) for answer in answers]
    logprobs = tuple(_logprobs(answer) for answer in answers)
    usage = answers[0].usage_metadata if answers else None
    return Completion(
        texts=tuple(outcome.answer for outcome in outcomes),
        finish_reasons=tuple(finish_reason(answer.response_metadata) or "" for answer in answers),
        prompt_tokens=outcomes[0].prompt_tokens if outcomes else 0,
        completion_tokens=outcomes[0].completion_tokens if outcomes else 0,
        cached_tokens=usage.get("input_token_details", {}).get("cache_read", 0) if usage else 0,
        logprobs=logprobs if all(logprobs) else (),
    )


def _logprobs(answer: AIMessage) -> tuple[float, ...]:
    """Of each token, as OpenAI's integration has them (a model built with ``logprobs=True``)."""
    found = answer.response_metadata.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    return tuple(token["logprob"] for token in content or ())
