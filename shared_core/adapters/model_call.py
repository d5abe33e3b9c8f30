"""A framework's call to a `Model`: parsed, checked (text only), and answered whole or in pieces."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from shared_core.inference import Completion, Model, StreamingModel
from shared_core.values import Message

_TAKEN: Final = frozenset({"max_tokens", "temperature", "timeout", "n", "stop"})


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call.

    Attributes:
        messages: The conversation, text only.
        max_tokens: See `Model.complete`, also for the next three.
        temperature: 0 or more.
        timeout: In seconds.
        n: 1 or more.
        stop: An answer ends before the first of these texts.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float
    timeout: float
    n: int = 1
    stop: Sequence[str] = ()

    @classmethod
    def read(cls, messages: Sequence[Message], arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> ModelCall:
        """Parse a framework's call.

        Args:
            messages: The conversation.
            arguments: The call's arguments; None counts as absent.
            defaults: Defaults of absent arguments.

        Raises:
            NotImplementedError: The call has images, tool calls, or an argument that a `Model` does not support.
        """
        named = {name: value for name, value in arguments.items() if value is not None}
        unknown = sorted(named.keys() - _TAKEN)
        if unknown:
            raise NotImplementedError(f"a Model takes {', '.join(sorted(_TAKEN))}; got {', '.join(unknown)}")
        other = next((message for message in messages if not message.is_text), None)
        if other is not None:
            raise NotImplementedError(
                f"a Model takes text only; a message of the {other.role} has an image, a file or a tool call"
            )
        chosen = {**{name: value for name, value in defaults.items() if value is not None}, **named}
        stop = chosen.pop("stop", ())
        return cls(messages, stop=(stop,) if isinstance(stop, str) else tuple(stop), **chosen)

    def complete(self, model: Model) -> Completion:
        """The n answers of `model`."""
        whole = model.complete(
            self.messages, max_tokens=self.max_tokens, temperature=self.temperature, n=self.n, timeout=self.timeout
        )
        ends = [
            min((place for stop in self.stop if (place := text.find(stop)) >= 0), default=-1) for text in whole.texts
        ]
        if max(ends, default=-1) < 0:
            return whole
        return replace(
            whole,
            texts=tuple(text if end < 0 else text[:end] for text, end in zip(whole.texts, ends, strict=True)),
            finish_reasons=tuple(
                reason if end < 0 else "stop" for reason, end in zip(whole.finish_reasons, ends, strict=True)
            ),
            logprobs=(),  # unknown for the truncated texts
        )

    def stream(self, model: Model) -> Generator[str | Completion, None, None]:
        """The pieces of one answer, then the whole completion; one piece if `model` does not stream.

        With stop texts there is one piece, too, because the answer is truncated once it is complete.
        """
        if isinstance(model, StreamingModel) and not self.stop:
            yield (
                yield from model.stream(
                    self.messages, max_tokens=self.max_tokens, temperature=self.temperature, timeout=self.timeout
                )
            )
        else:
            whole = replace(self, n=1).complete(model)
            yield whole.texts[0]
            yield whole
