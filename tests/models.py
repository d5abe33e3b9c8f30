"""Models of ours for tests: what they answer is given."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from typing_extensions import override

from shared_core.inference import Completion, Model, StreamingModel
from shared_core.values import Message


class Scripted(Model):
    """Answers with its texts, one after the other, the last one for ever; remembers what it was asked.

    A text that is an exception is raised.
    """

    def __init__(self, *texts: str | Exception, reason: str = "stop") -> None:
        self._texts = texts
        self._reason = reason
        self.asked: list[tuple[tuple[tuple[str, str], ...], dict[str, float]]] = []

    @property
    @override
    def name(self) -> str:
        return "scripted"

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
        parameters = {"max_tokens": max_tokens, "temperature": temperature, "n": n, "timeout": timeout}
        self.asked.append((tuple((message.role, message.text) for message in messages), parameters))
        text = self._texts[min(len(self.asked), len(self._texts)) - 1]
        if isinstance(text, Exception):
            raise text
        read = sum(len(message.text.split()) for message in messages)
        return Completion((text,) * n, (self._reason,) * n, read, n * len(text.split()), 1)


class ScriptedStream(Scripted, StreamingModel):
    """The same, word by word; counts the streams that were left in the middle."""

    left = 0

    @override
    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, timeout: float = 60.0
    ) -> Generator[str, None, Completion]:
        completion = self.complete(messages, max_tokens=max_tokens, temperature=temperature, timeout=timeout)
        words = completion.texts[0].split(" ")
        try:
            yield words[0]
            yield from (f" {word}" for word in words[1:])
        except GeneratorExit:
            self.left += 1
            raise
        return completion
