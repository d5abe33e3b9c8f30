"""LlamaIndex LLMs as a `Model`, for calls off the request path, e.g. of a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM

from iccache_llamaindex.arms import model_name
from iccache_llamaindex.llm_from_model import LLMFromModel
from iccache_llamaindex.messages import ResponseInfo, as_messages, text_of
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.errors import ConfigurationError, kind_of
from shared_core.inference import Completion, Model
from shared_core.inference.framework import FrameworkModel, Wanted, own_fields, secrets_of
from shared_core.values import Message


def as_model(llm: LLM, name: str | None = None) -> Model:
    """A LlamaIndex LLM, for chats or completions, as a `Model`.

    Calls are allowed from any thread, and within an event loop, which they block. The LLM's callback manager does not
    see them, and IC-Cache does not record them; LlamaIndex's event handlers see each once.

    `max_tokens` and `temperature` are set on the LLM's own fields; without such a field, it answers as it was built.
    LlamaIndex returns one answer per call, so n answers take n calls. `timeout` always holds for the caller. An LLM
    without its own time limit blocks the thread of a timed-out call until it answers, so build it with one.

    Args:
        llm: Any LLM.
        name: Its name in records; by default the LLM's own name.

    Raises:
        ConfigurationError: It is something else, or a router.
    """
    if isinstance(llm, EngineOwner):
        raise ConfigurationError(f"{kind_of(llm)} is a router, not a single model; pass one of its arms")
    if not isinstance(llm, LLM):
        raise ConfigurationError(f"{kind_of(llm)} is not a LlamaIndex LLM; pass e.g. OpenAILike(…)")
    if isinstance(llm, LLMFromModel) and name is None:
        return llm.model
    # A copy creates its own client at its first call, so copies are cached for calls with the same options.
    set_up = lru_cache(maxsize=8)(partial(_set_up, llm))
    return FrameworkModel(name or model_name(llm), partial(_ask, set_up), secrets_of(llm))


def _set_up(llm: LLM, max_tokens: int, temperature: float) -> LLM:
    fields = own_fields(llm, Wanted(max_tokens, temperature, n=1, timeout=0.0), ("max_tokens", "temperature"))
    return llm.model_copy(update={**fields, "callback_manager": CallbackManager([])})


def _ask(set_up: Callable[[int, float], LLM], messages: Sequence[Message], wanted: Wanted) -> Completion:
    llm = set_up(wanted.max_tokens, wanted.temperature)
    takes_timeout = "reuse_client" in type(llm).model_fields  # OpenAI's and similar LLMs send a call's arguments
    return _completion(llm.chat(as_messages(messages), **({"timeout": wanted.timeout} if takes_timeout else {})))


def _completion(response: ChatResponse) -> Completion:
    info = ResponseInfo.of(response)
    # Not from `response.logprobs`, where OpenAI's LLM puts the likeliest tokens, not the chosen ones.
    tokens = _read(response.raw, "choices", 0, "logprobs", "content")
    logprobs = tuple(_read(token, "logprob") for token in tokens) if isinstance(tokens, list) else ()
    return Completion(
        texts=(text_of(response),),
        finish_reasons=(info.reason or "",),
        prompt_tokens=info.prompt_tokens,
        completion_tokens=info.completion_tokens,
        cached_tokens=info.cached_tokens,
        logprobs=(logprobs,) if logprobs else (),
    )


def _read(raw: Any, *path: str | int) -> Any:
    """The value at `path` in a provider's answer, which holds objects or mappings; None if there is none."""
    for step in path:
        if isinstance(step, int):
            raw = raw[step] if isinstance(raw, list) and len(raw) > step else None
        else:
            raw = raw.get(step) if isinstance(raw, Mapping) else getattr(raw, step, None)
    return raw
