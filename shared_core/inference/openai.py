"""A `Model` behind any endpoint that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, OpenAI itself.

The client is the ``openai`` package, which both frameworks' OpenAI integrations bring along: it knows retries and the
providers' errors. It is used on the background loop, where a call with all its tries can be given up in time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from shared_core.errors import ExtraIsMissing, ModelFailed
from shared_core.inference import Completion, Model
from shared_core.inference.background_loop import wait_for
from shared_core.inference.checks import check_call, check_endpoint, check_mapping, check_name, check_whole
from shared_core.sharing import Shared
from shared_core.values import Clock, Message

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

NO_KEY: Final = "none"
_CLOSING: Final = 5.0  # seconds for connections to be closed


class OpenAIModel(Shared, Model):
    """A model of an OpenAI-compatible endpoint; see `Model`. Safe to use from any thread.

    Args:
        base_url: The endpoint, such as ``http://localhost:8000/v1``.
        model: The model's name there.
        api_key: Never shown or logged. Self-hosted endpoints usually accept any.
        max_retries: How often a call is repeated after a temporary failure, within the same `timeout`.
        extra: Sent with every call (``top_p``, ``seed``, ``extra_body`` …); overrides the arguments of `complete`. None
            leaves an argument out. Reasoning models need ``{"temperature": None, "max_tokens": None,
            "max_completion_tokens": 2000}``.
        clock: Monotonic, in seconds.

    Raises:
        ConfigurationError: An argument is of another kind, or `base_url` is not an address of HTTP.
        ExtraIsMissing: The package ``openai`` is not installed.
    """

    because = "it holds connections and a key; build it in each process"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = NO_KEY,
        max_retries: int = 2,
        extra: Mapping[str, Any] | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        check_endpoint(base_url)
        check_name("model", model, "the name under which the endpoint serves it")
        check_name("api_key", api_key, "the endpoint's key, or leave it out")
        check_whole("max_retries", max_retries, 0)
        check_mapping("extra", extra, "{'top_p': 0.9}")
        try:
            import openai
            import openai.resources.chat  # takes half a second, which would count as the first call's
        except ImportError as error:
            raise ExtraIsMissing("openai", "models") from error
        self._errors = openai.OpenAIError
        self._connect = partial(openai.AsyncOpenAI, base_url=base_url, api_key=api_key, max_retries=max_retries)
        self._client = os.getpid(), self._connect()
        self._where = f"{model!r} at {without_secrets(base_url)}"
        self._key = api_key
        self._model = model
        self._extra = dict(extra or {})
        self._clock = clock

    def __repr__(self) -> str:
        return f"OpenAIModel({self._where})"

    @property
    @override
    def name(self) -> str:
        return self._model

    @override
    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
        check_call(messages, max_tokens=max_tokens, temperature=temperature, n=n, timeout=timeout)
        begun = self._clock()
        wanted = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "n": n,
            "timeout": timeout,
            **self._extra,
        }
        sent: Any = {name: value for name, value in wanted.items() if value is not None}
        try:
            answer: ChatCompletion = wait_for(self._connected().chat.completions.create(**sent), timeout)
        except TimeoutError:
            raise ModelFailed(
                f"{self._where} did not answer within {timeout:g} s, tries included; see that the endpoint is up, or give "
                "a longer timeout"
            ) from None
        except self._errors as error:
            reply = str(error) if self._key in {"", NO_KEY} else str(error).replace(self._key, "***")
            # The cause is left out: a server may repeat the key, and a traceback would print it.
            raise ModelFailed(
                f"{self._where} gave no answer: {type(error).__name__}: {reply}; see that the endpoint is up, takes the "
                "key, and serves this model"
            ) from None
        if not isinstance(getattr(answer, "choices", None), list) or len(answer.choices) != n:
            raise ModelFailed(f"{self._where} did not send {n} answers; see that it speaks OpenAI's chat completions")
        return _completion(answer, self._clock() - begun)

    def close(self) -> None:
        """Close the connections."""
        with suppress(TimeoutError):
            wait_for(self._connected().close(), _CLOSING)

    def _connected(self) -> AsyncOpenAI:
        """The client of this process: the connections of the process that forked it are not ours."""
        if self._client[0] != os.getpid():
            self._client = os.getpid(), self._connect()
        return self._client[1]


def without_secrets(address: str) -> str:
    """An address as messages may show it: without user, password and query."""
    return re.sub(r"\?[^#]*", "", re.sub(r"//[^/#]*@", "//", address))


def _completion(answer: ChatCompletion, seconds: float) -> Completion:
    usage = answer.usage
    details = usage.prompt_tokens_details if usage else None
    return Completion(
        texts=tuple(choice.message.content or "" for choice in answer.choices),
        finish_reasons=tuple(choice.finish_reason or "" for choice in answer.choices),
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
        seconds=seconds,
    )
