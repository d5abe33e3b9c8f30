"""The models that the demo asks: the user's endpoints, and one that is asked each question once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from shared_core.errors import ConfigurationError, ModelFailed
from shared_core.inference import Completion, Embedder, Model
from shared_core.inference.openai import NO_KEY, OpenAIModel, without_secrets
from shared_core.values import Message

TIMEOUT: Final = 120.0  # seconds for one answer of an endpoint
PROBE: Final = "Say yes."


@dataclass(frozen=True, slots=True)
class Models:
    """What a run asks, and what messages call the two models.

    Attributes:
        small: Its answers are compared with the large one's.
        large: The reference.
        embedder: Embeds the requests.
        small_name: How messages name the small one.
        large_name: How messages name the large one.
        max_tokens: Longest answer of either.
    """

    small: Model
    large: Model
    embedder: Embedder
    small_name: str
    large_name: str
    max_tokens: int


class AskedOnce(Model):
    """Another model that is asked each question once; a repeated question gets the same answer for nothing.

    The demo compares every answer with the large model's, and must not pay twice where IC-Cache asks it too.
    """

    def __init__(self, inner: Model) -> None:
        self._inner = inner
        self._given: dict[tuple[Message, ...], Completion] = {}

    @property
    @override
    def name(self) -> str:
        return self._inner.name

    @override
    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = TIMEOUT,
    ) -> Completion:
        asked = tuple(messages)
        if asked not in self._given:
            self._given[asked] = self._inner.complete(
                messages, max_tokens=max_tokens, temperature=temperature, n=n, timeout=timeout
            )
        return self._given[asked]


def endpoint(url: str, model: str, max_retries: int = 2) -> Model:
    """The model at `url`; its key is ``OPENAI_API_KEY``, if that is set.

    Raises:
        ExtraIsMissing: The package openai is not installed.
    """
    return OpenAIModel(url, model, api_key=os.environ.get("OPENAI_API_KEY", NO_KEY), max_retries=max_retries)


def reachable(address: str, option: str) -> Model:
    """The model at ``URL#model``, after one question of one token to it.

    Raises:
        ConfigurationError: The address is malformed, or nothing answers there; the message names `option`.
        ExtraIsMissing: The package openai is not installed.
    """
    url, _, model = address.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ConfigurationError(
            f"{option} takes URL#model, such as http://localhost:8000/v1#qwen2.5-3b; got {without_secrets(address)!r}"
        )
    try:
        endpoint(url, model, max_retries=0).complete((Message("user", PROBE),), max_tokens=1, timeout=TIMEOUT)
    except ModelFailed as error:
        raise ConfigurationError(f"{option}: {error}") from None  # which names model, address and mend
    return endpoint(url, model)
