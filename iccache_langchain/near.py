"""A small model that answers, inside `lookup`, what is near to past requests (`ICCache(answer_with=…)`).

LangChain takes what a lookup returns for the large model's own answer. So the answer says who wrote it, and the call
behind it is kept from being counted, traced or cached a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import RunnableConfig

from iccache_langchain.messages import PROVENANCE, insert, outcome_of
from shared_core.engine import Engine
from shared_core.values import Decision, Request

# Inner tokens must not appear in the stream and the usage of the call that is being looked up.
_SILENT: Final[RunnableConfig] = {"callbacks": []}
_is_answering: ContextVar[bool] = ContextVar("iccache_is_answering", default=False)


class NearTier:
    """Finds the requests that a small model may answer.

    Args:
        engine: Its one arm is the small model.
        model: The small model.
    """

    def __init__(self, engine: Engine, model: BaseChatModel) -> None:
        self._engine = engine
        self._model = model.model_copy(update={"cache": False})

    def seek(self, request: Request, messages: Sequence[BaseMessage]) -> NearRequest | None:
        """The request with its examples, if it is near to past ones.

        A turn of a longer conversation is not: its query alone does not say what is asked. Nor is anything near in a
        pool of fewer than two examples, which cannot say what a usual distance is.
        """
        if request.has_history and not request.condensed:
            return None
        decision = self._engine.decide(request)
        is_near = decision.given and decision.selection.threshold > -1.0
        self._engine.counters.add("near.found" if is_near else "near.none")
        return NearRequest(self._engine, self._model, decision, messages) if is_near else None


@dataclass(frozen=True, slots=True)
class NearRequest:
    """A request that the small model is to answer, with the examples chosen for it."""

    engine: Engine
    model: BaseChatModel
    decision: Decision
    messages: Sequence[BaseMessage]

    def answer(self) -> list[Generation] | None:
        """The small model's answer, or None if it failed or did not end by itself. Never raises."""
        try:
            with _answering():
                return self._accept(self.model.invoke(self._shown(), config=_SILENT))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fail(error)

    async def aanswer(self) -> list[Generation] | None:
        """`answer`, with the model's own async client."""
        try:
            with _answering():
                return self._accept(await self.model.ainvoke(self._shown(), config=_SILENT))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fail(error)

    def _shown(self) -> list[BaseMessage]:
        return insert(self.messages, self.decision.insertion)

    def _accept(self, reply: AIMessage) -> list[Generation] | None:
        outcome = outcome_of(reply)
        if not outcome.finished or outcome.tool_calls or not outcome.answer.strip():
            self.engine.counters.add("near.unfinished")
            return None
        # The decision is kept for feedback. `store=False` keeps the answer out of the pool, into which its standing
        # as the engine's only arm would let it.
        request = replace(self.decision.request, store=False)
        self.engine.submit_record(replace(self.decision, request=request), outcome)
        self.engine.counters.add("near.answered")
        provenance = self.decision.provenance() | {"tier": "near", "writer": self.decision.arm}
        metadata = reply.response_metadata | {PROVENANCE: provenance}
        return [ChatGeneration(message=reply.model_copy(update={"id": None, "response_metadata": metadata}))]

    def _fail(self, error: Exception) -> None:
        self.engine.counters.add("near.failed")
        self.engine.counters.add(f"near.failed.{type(error).__name__}")


def is_answering() -> bool:
    """True while a small model answers inside a lookup: what it calls in turn must not look up again."""
    return _is_answering.get()


@contextmanager
def _answering() -> Iterator[None]:
    token = _is_answering.set(True)
    try:
        yield
    finally:
        _is_answering.reset(token)
