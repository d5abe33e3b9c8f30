"""`ICCacheEventHandler`: examples from the answers of query and chat engines, and feedback on them.

LlamaIndex tells of a query in events: a synthesis begins, models are asked, it ends with the response. They are sent
in the task that answers, so a context variable tells which model's call belongs to which question.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Unpack
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import RESPONSE_TYPE, PydanticResponse
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from pydantic import Field, PrivateAttr

from iccache_llamaindex.handover import Handover, current
from iccache_llamaindex.messages import Response, ResponseInfo, normalised, outcome_of, text_of
from iccache_llamaindex.question import carry, question_of
from iccache_llamaindex.route_event import ICCacheRouteEvent
from iccache_llamaindex.source_nodes import is_example
from shared_core.adapters import Context, current_context
from shared_core.adapters.factory import example_engine
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.provenance import PROVENANCE, is_trusted, named_model
from shared_core.adapters.requests import Requests
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.store.protocol import Store
from shared_core.values import UNROUTED, Decision, Message, Outcome, Request, Route


@dataclass(slots=True)
class _Synthesis:
    """One answer in the making. The threads and tasks that a synthesizer starts share it.

    Attributes:
        question: As the synthesizer was asked.
        context: Whose question it is, as the context of its asker says.
        handover: What a postprocessor chose before.
        writer: The model that was asked last.
        info: What the pieces of its answer said so far.
        last: The last piece of it.
        streamed: True if it came in pieces.
        messages: What the model was shown.
        provenance: Of an answer that came through `ICCacheLLM`, which keeps it itself.
    """

    question: str
    context: Context
    handover: Handover | None
    writer: str = ""
    info: ResponseInfo = field(default_factory=ResponseInfo)
    last: Response | None = None
    streamed: bool = False
    messages: Sequence[ChatMessage] = ()
    provenance: Mapping[str, object] | None = None


_current: ContextVar[_Synthesis | None] = ContextVar("iccache_synthesis", default=None)
_last_id: ContextVar[str] = ContextVar("iccache_last_decision", default="")


class ICCacheFeedbackEvent(BaseEvent):
    """A judgement of an answer, for whoever has its decision id and no handler at hand.

    ```python
    get_dispatcher().event(ICCacheFeedbackEvent(decision_id=…, score=1.0))
    ```

    Attributes:
        decision_id: Which answer: ``response.metadata["iccache"]["decision_id"]``.
        score: In [0, 1].
        rater: Who judges; each judges an answer once.
    """

    decision_id: str
    score: float = Field(ge=0.0, le=1.0)
    rater: str = "user"

    @classmethod
    def class_name(cls) -> str:
        """The name of the event."""
        return "ICCacheFeedbackEvent"


class ICCacheEventHandler(EngineOwner, BaseEventHandler):
    """Keeps question and answer of query engines, and of chat engines that retrieve, as examples.

    ```python
    examples = ICCachePostprocessor("sqlite:///iccache.db")
    handler = ICCacheEventHandler(engine=examples.engine, reference="qwen2.5-32b")
    get_dispatcher().add_event_handler(handler)  # from llama_index.core.instrumentation
    response = query_engine.query("…")
    handler.record_feedback(response, 1.0)
    ```

    An answer becomes an example once its model has ended by itself, a streamed one once it has been read to its end.
    A turn that needs the turns before it does not, unless the engine condensed it. Answers of `ICCacheLLM` are left to
    that one. ``response.metadata["iccache"]`` says how an answer came about. Nothing here waits or raises: what takes
    time is done by the engine's writer.

    Args:
        store: A URL (``sqlite:///iccache.db``, ``redis://…``) or an open store; ``sqlite:///iccache.db`` if left out.
        reference: The model whose answers may become examples, as its LlamaIndex class names it. By default those of
            every model that gives its name. Another model's answers are kept once they are rated well.
        options: See `EngineOptions`. `strict_scope` keeps nothing of queries that name no scope. The `task` is free text
            by default, as the postprocessor's; it must be the same there.
    """

    reference: str | None = None
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None

    _engine: Engine = PrivateAttr()
    _owns_engine: bool = PrivateAttr(default=True)

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        reference: str | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions, "ICCacheEventHandler")
        super().__init__(reference=reference, scope=given.scope, strict_scope=given.strict_scope, task=given.task)
        self._owns_engine = "engine" not in given.engine
        self._engine = example_engine(store, given)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "ICCacheEventHandler"

    @property
    def engine(self) -> Engine:
        """The engine behind it: `flush`, `maintain`, `delete`."""
        return self._engine

    def record_feedback(self, answer: RESPONSE_TYPE | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1], by the query engine's response or by its decision id. Does not wait.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the response says no decision.
        """
        self._engine.submit_feedback(answer if isinstance(answer, str) else decision_id_of(answer), score, rater)

    def last_decision_id(self) -> str:
        """The decision behind the last answer of this thread or task; empty if there is none.

        A chat engine answers with a response that holds no metadata: ask right after ``chat``.
        """
        return _last_id.get()

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Take note of an event. Never raises."""
        try:
            self._take(event)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._engine.failed("observe", error)

    # private --------------------------------------------------------------------------------------------------

    def _take(self, event: BaseEvent) -> None:
        if isinstance(event, SynthesizeStartEvent):
            chosen = current.get()
            handover = chosen if chosen and not chosen.answered else None
            _current.set(_Synthesis(question_of(event.query), current_context(), handover))
        elif isinstance(event, ICCacheFeedbackEvent):
            self._engine.submit_feedback(event.decision_id, event.score, event.rater)
        elif (synthesis := _current.get()) is not None:
            if isinstance(event, SynthesizeEndEvent):
                _current.set(None)
                self._ended(synthesis, event.response)
            else:
                _observe_call(synthesis, event)

    def _ended(self, synthesis: _Synthesis, response: RESPONSE_TYPE) -> None:
        decision = self._decision(synthesis, response)
        if decision is None:
            return

        def keep(text: str) -> None:
            self._keep(synthesis, decision, response, text)

        _set_provenance(response, decision.provenance())  # at once: who reads a stream wants to know before its end
        if isinstance(response, PydanticResponse):
            self._engine.submit_decision(decision)  # its answer is bound to a form, and so no example for free text
        elif not carry(response, _current, synthesis, keep):
            keep(str(getattr(response, "response", "") or ""))

    def _decision(self, synthesis: _Synthesis, response: RESPONSE_TYPE) -> Decision | None:
        """What was decided for this answer, or that nothing was; None if nothing is to be kept."""
        if _belongs(synthesis, response):
            return synthesis.handover.recorded() if synthesis.handover else None
        try:
            requests: Requests[Message] = Requests(tuple, self.counters, self.scope, self.strict_scope, self.task)
            request = requests.request((Message("user", synthesis.question),), synthesis.context)
        except ConfigurationError:
            self.counters.count("bypass.no_scope")
            return None
        return Decision(uuid4().hex, request, Route(UNROUTED, reason="observed"), created_at=time.time())

    def _keep(self, synthesis: _Synthesis, decision: Decision, response: RESPONSE_TYPE, text: str) -> None:
        """Hand question and answer to the engine's writer."""
        if synthesis.last is None or synthesis.provenance is not None:
            _set_provenance(
                response, synthesis.provenance
            )  # no model was asked, or `ICCacheLLM` keeps its answer itself
            return
        outcome = _outcome(synthesis, text)
        route = replace(decision.route, arm=outcome.writer or UNROUTED)
        kept = replace(decision, request=_with_history(synthesis, decision), route=route)
        _set_provenance(response, kept.provenance())
        trusted = is_trusted(outcome.writer, self.reference)
        self._engine.submit(lambda: self._engine.record(kept, outcome, trusted=trusted))


def decision_id_of(response: RESPONSE_TYPE) -> str:
    """The decision behind a query engine's response.

    Raises:
        NotFromICCache: It says none.
    """
    provenance = (getattr(response, "metadata", None) or {}).get(PROVENANCE)
    if not isinstance(provenance, Mapping) or "decision_id" not in provenance:
        raise NotFromICCache(
            f"this {type(response).__name__} has no metadata['iccache']; give the decision id instead, which "
            "ICCacheEventHandler.last_decision_id() tells right after the answer"
        )
    return str(provenance["decision_id"])


def _observe_call(synthesis: _Synthesis, event: BaseEvent) -> None:
    """Take note of a model's call. The last one gives the answer; it may hold others, as `ICCacheLLM` asks its arms."""
    match event:
        case LLMChatStartEvent() | LLMCompletionStartEvent():
            synthesis.writer = named_model(event.model_dict.get)
            synthesis.info, synthesis.streamed = ResponseInfo(), False
            synthesis.messages = event.messages if isinstance(event, LLMChatStartEvent) else ()
        case LLMChatInProgressEvent() | LLMCompletionInProgressEvent():
            synthesis.info = synthesis.info.then(ResponseInfo.of(event.response))
            synthesis.streamed = True
        case LLMChatEndEvent() | LLMCompletionEndEvent() if event.response is not None:
            synthesis.info = synthesis.info.then(ResponseInfo.of(event.response))
            synthesis.last = event.response
            synthesis.provenance = None
        case ICCacheRouteEvent():  # follows the events of the model that `ICCacheLLM` asked
            synthesis.provenance = event.provenance
        case _:
            pass


def _belongs(synthesis: _Synthesis, response: RESPONSE_TYPE) -> bool:
    """True if what the postprocessor chose was chosen for this answer.

    A chat engine condenses the conversation to retrieve: then the question differs, and the documents tell.
    """
    handover = synthesis.handover
    if handover is None or handover.context != synthesis.context:
        return False
    documents = {node.node.node_id for node in response.source_nodes if not is_example(node)}
    return handover.question == synthesis.question or documents <= handover.documents


def _with_history(synthesis: _Synthesis, decision: Decision) -> Request:
    """The request, with the turns before it where its question does not stand for them."""
    request, handover = decision.request, synthesis.handover
    if handover and handover.question != synthesis.question:
        return request  # condensed
    earlier = [turn for turn in normalised(synthesis.messages) if turn.role != "system"][:-1]
    for turn in handover.turns if handover else ():
        if turn in earlier:
            earlier.remove(turn)  # once: an example may be an earlier turn of this very conversation
    return replace(request, messages=(*earlier, *request.messages))


def _outcome(synthesis: _Synthesis, text: str) -> Outcome:
    """How the answer ended. A stream that is cut looks like its end, so that one must say why it stopped."""
    assert synthesis.last is not None  # noqa: S101 - for the type checker; the caller has looked
    outcome = outcome_of(synthesis.last, synthesis.info)
    has_ended = not synthesis.streamed or synthesis.info.reason is not None
    return replace(
        outcome,
        answer=text if synthesis.streamed or text_of(synthesis.last).strip() else "",  # else it is "Empty Response"
        finished=outcome.finished and has_ended,
        writer=synthesis.writer or outcome.writer,
    )


def _set_provenance(response: RESPONSE_TYPE, provenance: Mapping[str, object] | None) -> None:
    """Say in the response how it came about; None: that IC-Cache knows nothing of it."""
    metadata = {name: value for name, value in (response.metadata or {}).items() if name != PROVENANCE}
    response.metadata = (metadata or None) if provenance is None else {**metadata, PROVENANCE: dict(provenance)}
    _last_id.set(str((provenance or {}).get("decision_id", "")))
