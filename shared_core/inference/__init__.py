"""What IC-Cache calls: embedders, and models and judges for work off the request path."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared_core.errors import ConfigurationError, kind_of
from shared_core.records import Vector
from shared_core.values import Message, Request


class Embedder(Protocol):
    """Turns texts into unit vectors. Texts of several requests, also of several scopes, may share a call.

    An attribute ``one_at_a_time = True`` says that a second call would only wait for the first. Requests that come
    meanwhile then all share the next call.
    """

    @property
    def tag(self) -> str:
        """Names the model: a pool is never searched with another one."""

    def embed(self, texts: Sequence[str]) -> Vector:
        """Unit vectors of shape (len(texts), dimension), float32. Must be thread-safe."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answers to one conversation.

    Attributes:
        texts: The n answers.
        finish_reasons: Why each answer ended, as the provider names it; empty where it gave no reason.
        prompt_tokens: Tokens of the prompt as the model counted them; 0 without a count.
        completion_tokens: Tokens of all answers together; 0 without a count.
        cached_tokens: Tokens of the prompt that came from the prefix cache.
        seconds: Time from the call to the answer.
        logprobs: For each answer the natural logarithm of each token's probability; empty where the model gives none.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    logprobs: tuple[tuple[float, ...], ...] = ()


@runtime_checkable
class Model(Protocol):
    """A language model that IC-Cache calls: for a judge, a probe, a replay or the demo, or as an arm."""

    @property
    def name(self) -> str:
        """Its name in records."""

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
        """Answer a conversation. Blocks, and may be called from any thread.

        Args:
            messages: The conversation. Roles and texts are sent, `extra` is not.
            max_tokens: Longest answer, at least 1.
            temperature: 0 for the most probable answer.
            n: How many answers.
            timeout: Seconds until the call is given up.

        Raises:
            ConfigurationError: An argument is of another kind or out of range.
            ModelFailed: The model could not be reached, refused, or did not answer in time.
        """


def check_model(model: object) -> None:
    """Check that `model` is one.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(model, type) or not isinstance(model, Model):
        raise ConfigurationError(
            f"model is {kind_of(model)}, not a Model; pass one, such as HuggingFaceModel('HuggingFaceTB/SmolLM2-135M-Instruct')"
        )


@runtime_checkable
class StreamingModel(Model, Protocol):
    """A model that can stream its answer."""

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, timeout: float = 60.0
    ) -> Generator[str, None, Completion]:
        """Stream one answer piece by piece; the generator returns the whole `Completion`.

        The generation begins when the first piece is taken, and ends when the generator is closed.

        Raises:
            ConfigurationError, ModelFailed: As in `Model.complete`.
        """


class Judge(Protocol):
    """Compares two answers to one request."""

    def compare(self, request: Request, first: str, second: str) -> float | None:
        """1.0 if the first is better, 0.0 if the second is, 0.5 for a tie; None without a verdict.

        The judge looks at both orders: a verdict that depends on the order is a tie.
        """
