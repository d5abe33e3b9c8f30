"""Chooses the examples for a question, and hands them over to the prompt and the event handler.

A postprocessor sees the question and the documents, the prompt sees the question and the model, an event handler sees
the answer. LlamaIndex calls the three one after the other in one task, so the choice travels in a context variable
(docs/decisions/0006-query-engines.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final

from llama_index.core.schema import NodeWithScore

from shared_core.adapters.context import Context, current_context
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
        engine: Chooses the examples within its deadline.
        requests: Turns a question into a `Request`.
    """

    engine: Engine
    requests: Requests[Message]

    @classmethod
    def of(cls, engine: Engine, scope: str | None, strict_scope: bool, task: str | None) -> Chooser:
        """For a surface with these settings; a question has no system message."""
        return cls(engine, Requests(tuple, engine.failures, scope, strict_scope, task))

    def choose(self, question: str) -> Decision | None:
        """The examples for a question; None if they could not be chosen. Never raises."""
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
    """The choice for one query, passed to the prompt and the event handler.

    Attributes:
        chooser: The chooser.
        question: The query engine's question.
        decision: The choice.
        context: Scope and task of the query, from `iccache_context`.
        documents: Ids of the documents in the prompt.
        by_prompt: True if the prompt is to show the examples.
        shown: True once a prompt holds the examples.
        shown_for: The question of that prompt. It may differ from `question`: a chat engine retrieves with a condensed
            question, and then sends the user's own words to the model.
        turns: The turns of the prompt that are examples.
        answered: True once a synthesizer has answered; later events belong to another query.
        returned_nodes: The returned list of nodes, if the examples' node must be removed from it after the answer.
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
    returned_nodes: list[NodeWithScore] | None = None

    def is_for(self, question: str) -> bool:
        """True if the examples were chosen for the prompt that asks `question` now.

        The first different question is taken to be the user's own words before condensing; never in another scope.
        """
        if self.context != current_context():
            return False
        if question == self.question:
            return True
        if self.shown_for is None:
            self.shown_for = question
        return question == self.shown_for

    def recorded(self) -> Decision:
        """The decision to record: without its examples, if no prompt showed them."""
        if self.shown or not self.decision.given:
            return self.decision
        reason = f"{self.decision.route.reason}, which no prompt showed"
        return replace(self.decision, insertion=Insertion(), route=replace(self.decision.route, reason=reason))


current: ContextVar[Handover | None] = ContextVar("iccache_handover", default=None)
