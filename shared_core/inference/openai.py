"""A `Model` behind any endpoint that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, OpenAI itself.

The client is the ``openai`` package, which both frameworks' OpenAI integrations bring along: it knows time limits,
retries and the providers' errors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from shared_core.errors import ExtraIsMissing, ModelFailed
from shared_core.inference import Completion
from shared_core.values import Clock, Message

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion


class OpenAIModel:
    """A model of an OpenAI-compatible endpoint; see `Model`. Safe to use from any thread.

    Args:
        base_url: The endpoint, such as ``http://localhost:8000/v1``.
        model: The model's name there.
        api_key: Never shown or logged; endpoints of one's own usually take any.
        max_retries: How often a call that failed for a passing reason is made again.
        extra: Sent with every call beside what `complete` names (``top_p``, ``seed``, ``extra_body`` …).
        clock: Monotonic, in seconds.

    Raises:
        ExtraIsMissing: The package ``openai`` is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "none",
        max_retries: int = 2,
        extra: Mapping[str, Any] | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ExtraIsMissing("openai", "models") from error
        self._errors = openai.OpenAIError
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=max_retries)
        self._where = f"{model!r} at {_without_user(base_url)}"
        self._key = api_key
        self._model = model
        self._extra = dict(extra or {})
        self._clock = clock

    def __repr__(self) -> str:
        return f"OpenAIModel({self._where})"

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._model

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
        """See `Model.complete`."""
        begun = self._clock()
        turns: Any = [{"role": message.role, "content": message.text} for message in messages]
        try:
            answer: ChatCompletion = self._client.chat.completions.create(
                model=self._model,
                messages=turns,
                max_tokens=max_tokens,
                temperature=temperature,
                n=n,
                timeout=timeout,
                **self._extra,
            )
        except self._errors as error:
            said = str(error).replace(self._key, "***") if self._key else str(error)
            # The cause is left out: a server may repeat the key, and a traceback would print it.
            raise ModelFailed(
                f"{self._where} gave no answer: {type(error).__name__}: {said}; see that the endpoint is up, takes the "
                "key, and serves this model"
            ) from None
        if not isinstance(getattr(answer, "choices", None), list) or len(answer.choices) != n:
            raise ModelFailed(f"{self._where} did not send {n} answers; see that it speaks OpenAI's chat completions")
        return _completion(answer, self._clock() - begun)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _without_user(url: str) -> str:
    """The address without a user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


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
