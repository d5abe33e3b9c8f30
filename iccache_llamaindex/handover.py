"""Chooses the examples for a question, and hands them over to whoever shows or records them.

A postprocessor sees the question and the documents, the prompt sees the question and the model, an event handler sees
the answer; LlamaIndex calls the three one after the other in one task. So what was chosen travels in a context
variable (docs/decisions/0023-query-engines.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final

from llama_index.core.schema import NodeWithScore

from shared_core.adapters import Context, current_context
from shared_core.adapters.requests import Requests
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.telemetry import get_logger
from shared_core.values import Decision, Insertion, Message, Request

log = get_logger("llamaindex")

_TOOL_PREFIX: Final = "input is "  # how a RetrieverTool writes the one argument of its default schema


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses examples for one surface.

    Attributes:
        engine: Chooses, within its deadline.
        requests: Reads questions.
    """

    engine: Engine
    requests: Requests[Message]

    @classmethod
    def of(cls, engine: Engine, scope: str | None, strict_scope: bool, task: str | None) -> Chooser:
        """For a surface with these settings; a question is free text without a system message."""
        return cls(engine, Requests(tuple, engine.counters, scope, strict_scope, task))

    def choose(self, question: str) -> Decision | None:
        """The examples that help with a question; None if nothing was asked for. Never raises."""
        with self._failing_open():
            return self.engine.select(self._request(question))
        return None

    async def achoose(self, question: str) -> Decision | None:
        """`choose` for event loops."""
        with self._failing_open():
            return await self.engine.aselect(self._request(question))
        return None

    def _request(self, question: str) -> Request:
        question = question.strip().removeprefix(_TOOL_PREFIX)
        return self.requests.request((Message("user", question),), current_context())

    @contextmanager
    def _failing_open(self) -> Iterator[None]:
        try:
            yield
        except ConfigurationError:
            self.engine.counters.count("bypass.no_scope")
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failed("choose", error)


@dataclass(slots=True)
class Handover:
    """What was chosen for one query, on its way to the prompt and the record.

    Attributes:
        chooser: Who chose.
        question: The question as the query engine put it.
        decision: What was chosen.
        context: What the surroundings said about the query, such as its scope.
        documents: Ids of the documents in the prompt.
        by_prompt: True if the examples are for the prompt to show.
        shown: True once the examples stand in a prompt.
        shown_for: The question of the prompt that they were shown for. A chat engine condenses the conversation to
            retrieve, and then asks the model what the user said, so that it may differ from `question`.
        turns: The turns of the prompt that are examples.
        answered: True once a synthesizer has answered with it; what comes after is another query.
        placed: The list of nodes that was handed on, if the examples' node is to leave it when the answer is there.
    """

    chooser: Chooser
    question: str
    decision: Decision
    context: Context = field(default_factory=current_context)
    documents: frozenset[str] = frozenset()
    by_prompt: bool = False
    shown: bool = False
    shown_for: str | None = None
    turns: tuple[Message, ...] = ()
    answered: bool = False
    placed: list[NodeWithScore] | None = None

    def is_for(self, question: str) -> bool:
        """True if a prompt that asks `question` now is the one that the examples were chosen for.

        The first other question is taken for what the user said before it was condensed; never in another scope.
        """
        if self.context != current_context():
            return False
        if question == self.question:
            return True
        if self.shown_for is None:
            self.shown_for = question
        return question == self.shown_for

    def recorded(self) -> Decision:
        """The decision as it came about: without its examples, if no prompt showed them."""
        return self.decision if self.shown else replace(self.decision, insertion=Insertion())


current: ContextVar[Handover | None] = ContextVar("iccache_handover", default=None)
