"""A file of right answers, which plays the large model where there is none.

It answers from the file only: with the text there, or by calling the tool that is named there. After a tool's result
it repeats that result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from shared_core.errors import ModelFailed
from shared_core.inference import Completion, Model
from shared_core.jsonl import read_jsonl
from shared_core.prompt import estimate_tokens
from shared_core.values import Message

MODEL: Final = "answer-file"
SHOWN: Final = 200  # characters of a request in a message, the last ones: the question follows what was retrieved


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the file: a text, or, with a tool, the arguments of its call as JSON."""

    text: str
    tool: str = ""

    @property
    def finish_reason(self) -> str:
        """As the protocol calls it."""
        return "tool_calls" if self.tool else "stop"


class NoAnswer(ModelFailed):
    """The file has no answer to this request."""


@dataclass(frozen=True, slots=True)
class AnswerFile(Model):
    """A model that looks up what it answers.

    Attributes:
        answers: By request.
    """

    answers: Mapping[str, Reply]

    @classmethod
    def read(cls, path: Path) -> AnswerFile:
        """The answers of a file of JSON lines ``{"request": …, "answer": …}``.

        Where a line has a ``"tool"``, that tool is called, and the answer holds its arguments as JSON.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        rows = read_jsonl(path, ["request", "answer"], ["tool"])
        return cls({row["request"]: Reply(row["answer"], row.get("tool", "")) for row in rows})

    @property
    @override
    def name(self) -> str:
        return MODEL

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
        reply = self.reply(messages)
        read, written = tokens(messages, reply)
        return Completion((reply.text,) * n, (reply.finish_reason,) * n, read, n * written)

    def reply(self, messages: Sequence[Message], tools: Collection[str] = ()) -> Reply:
        """The answer to one conversation.

        The last user turn may hold more than the request, such as retrieved text: the request that it names last counts.

        Args:
            messages: The conversation.
            tools: Names of the tools that may be called.

        Raises:
            NoAnswer: It names no request of the file, or one whose tool may not be called.
        """
        if messages[-1].role == "tool":
            return Reply(messages[-1].text)
        asked = next((message.text for message in reversed(messages) if message.role == "user"), "")
        request = asked if asked in self.answers else self._named_last(asked)
        if request is None:
            raise NoAnswer(f"the file of right answers has no answer to {asked[-SHOWN:]!r}; add a line with it")
        reply = self.answers[request]
        if reply.tool and reply.tool not in tools:
            raise NoAnswer(f"the right answer to {request!r} calls the tool {reply.tool!r}, which is not offered")
        return reply

    def _named_last(self, asked: str) -> str | None:
        """The request that `asked` names last, of two at the same place the longer; None if it names none."""
        places = ((asked.rfind(request), len(request), request) for request in self.answers)
        at, _, request = max(places, default=(-1, 0, ""))
        return request if at >= 0 else None


def tokens(messages: Sequence[Message], reply: Reply) -> tuple[int, int]:
    """Estimated tokens of a conversation and of its answer; the file has no tokenizer."""
    return sum(estimate_tokens(message.text) for message in messages), estimate_tokens(reply.text)
