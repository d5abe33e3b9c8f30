"""`ICCacheEventHandler`: collects examples and feedback from query and chat engines.

LlamaIndex sends events for a query: the synthesis starts, models are called, the synthesis ends with the response. The
events come in the task that answers, so a context variable links each model call to its question.
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
from pydantic import PrivateAttr

from iccache_llamaindex.handover import Handover, current
from iccache_llamaindex.messages import Response, ResponseInfo, normalised, outcome_of, text_of
from iccache_llamaindex.question import carry, question_of
from iccache_llamaindex.route_event import ICCacheRouteEvent
from iccache_llamaindex.source_nodes import is_example
from shared_core.adapters.arguments import check_arguments
from shared_core.adapters.context import Context, current_context
from shared_core.adapters.factory import example_engine
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.parameters import rated_id
from shared_core.adapters.provenance import PROVENANCE, is_trusted
from shared_core.adapters.requests import Requests
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.inference.naming import named_model
from shared_core.reward import check_score
from shared_core.store.address import StoreLike
from shared_core.values import UNROUTED, Decision, Message, Outcome, Request, Route


@dataclass(slots=True)
class _Synthesis:
    """One running synthesis, shared by the threads and tasks that it starts.

    Attributes:
        question: The synthesizer's question.
        context: Scope and task of the caller.
        handover: The choice of a postprocessor, if one ran.
        writer: The model that was called last.
        info: Metadata of its answer so far.
        last: The last piece of its answer.
        streamed: True if the answer came in pieces.
        messages: The prompt.
        provenance: That of an answer of `ICCacheLLM`, which records its answers itself.
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
    """Feedback on an answer by its decision id, for code that has no access to the handler.

    ```python
    get_dispatcher().event(ICCacheFeedbackEvent(decision_id=…, score=1.0))
    ```

    Attributes:
        decision_id: The answer's ``response.metadata["iccache"]["decision_id"]``.
        score: In [0, 1].
        rater: Name of the rater; only the first score of a rater for an answer counts.

    Raises:
        ConfigurationError: The score is not within [0, 1], or an argument is missing, unknown or of the wrong kind.
    """

    decision_id: str
    score: float
    rater: str

    @check_arguments()
    def __init__(self, *, decision_id: str, score: float, rater: str = "user", **fields: Any) -> None:
        check_score(score)
        super().__init__(decision_id=decision_id, score=score, rater=rater, **fields)

    @classmethod
    def class_name(cls) -> str:
        """The name of the event."""
        return "ICCacheFeedbackEvent"


class ICCacheEventHandler(EngineOwner, BaseEventHandler):
    """Stores questions and answers of query engines, and of chat engines that retrieve, as examples.

    ```python
    examples = ICCachePostprocessor("sqlite:///iccache.db")
    handler = ICCacheEventHandler(engine=examples.engine, reference="qwen2.5-32b")
    get_dispatcher().add_event_handler(handler)  # from llama_index.core.instrumentation
    response = query_engine.query("…")
    handler.record_feedback(response, 1.0)
    ```

    An answer becomes an example once it is complete; a streamed one once it is read to its end. Follow-up turns are not
    stored unless the engine condensed them into a standalone question. `ICCacheLLM` records its own answers.
    ``response.metadata["iccache"]`` holds the decision. Nothing waits or raises: slow work runs on the engine's writer.

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; by default
            ``sqlite:///iccache.db``.
        reference: The model whose answers may become examples, as its LlamaIndex class names it; by default every model
            that gives its name. Answers of other models become examples only after good feedback.
        options: See `EngineOptions`. With `strict_scope`, queries without a scope are not stored. The `task` must equal
            the postprocessor's; both have the same default.
    """

    reference: str | None = None
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None

    _engine: Engine = PrivateAttr()
    _owns_engine: bool = PrivateAttr(default=True)

    @with_options(EngineOptions)
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        reference: str | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions)
        super().__init__(reference=reference, scope=given.scope, strict_scope=given.strict_scope, task=given.task)
        self._owns_engine = given.owns_engine
        self._engine = example_engine(store, given)

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialised forms."""
        return "ICCacheEventHandler"

    @property
    def engine(self) -> Engine:
        """The engine: `flush`, `maintain`, `delete`."""
        return self._engine

    def record_feedback(self, answer: RESPONSE_TYPE | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1], by the query engine's response or by its decision id. Does not wait.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the answer is neither a response nor an id.
            NotFromICCache: The response holds no decision.
        """
        self._engine.submit_feedback(decision_id_of(answer), score, rater)

    def last_decision_id(self) -> str:
        """The decision id of the last answer in this thread or task; empty if there is none.

        Call it right after ``chat``, because a chat engine's response has no metadata.
        """
        return _last_id.get()

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Process an event. Never raises."""
        try:
            self._process(event)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._engine.failed("observe", error)

    # private --------------------------------------------------------------------------------------------------

    def _process(self, event: BaseEvent) -> None:
        if isinstance(event, SynthesizeStartEvent):
            chosen = current.get()
            handover = chosen if chosen and not chosen.answered else None
            _current.set(_Synthesis(question_of(event.query), current_context(), handover))
        elif isinstance(event, ICCacheFeedbackEvent):
            self._engine.submit_feedback(rated_id(event.decision_id), event.score, event.rater)
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
            self._record(synthesis, decision, response, text)

        _set_provenance(response, decision.provenance())  # a stream's reader may need it before the end
        if isinstance(response, PydanticResponse):
            self._engine.submit_decision(decision)  # structured output is not an example for free text
        elif not carry(response, _current, synthesis, keep):
            keep(str(getattr(response, "response", "") or ""))

    def _decision(self, synthesis: _Synthesis, response: RESPONSE_TYPE) -> Decision | None:
        """The postprocessor's decision for this answer, else a new one without a choice; None to store nothing."""
        if _belongs(synthesis, response):
            return synthesis.handover.recorded() if synthesis.handover else None
        try:
            requests: Requests[Message] = Requests(
                tuple, self.engine.failures, self.scope, self.strict_scope, self.task
            )
            request = requests.request((Message("user", synthesis.question),), synthesis.context)
        except ConfigurationError:
            self.counters.count("bypass.no_scope")
            return None
        return Decision(uuid4().hex, request, Route(UNROUTED, reason="observed"), created_at=time.time())

    def _record(self, synthesis: _Synthesis, decision: Decision, response: RESPONSE_TYPE, text: str) -> None:
        """Pass question and answer to the engine's writer."""
        if synthesis.last is None or synthesis.provenance is not None:
            _set_provenance(response, synthesis.provenance)  # no model was called, or `ICCacheLLM` records the answer
            return
        outcome = _outcome(synthesis, text)
        route = replace(decision.route, arm=outcome.writer or UNROUTED)
        kept = replace(decision, request=_with_history(synthesis, decision), route=route)
        _set_provenance(response, kept.provenance())
        self._engine.submit_record(kept, outcome, trusted=is_trusted(outcome.writer, self.reference))


def decision_id_of(response: RESPONSE_TYPE | str) -> str:
    """The decision id of a query engine's response, or the given one.

    Raises:
        ConfigurationError: It is neither.
        NotFromICCache: It has none.
    """
    if not hasattr(response, "metadata"):
        return rated_id(response)
    provenance = (response.metadata or {}).get(PROVENANCE)
    if not isinstance(provenance, Mapping) or "decision_id" not in provenance:
        raise NotFromICCache(
            f"this {type(response).__name__} has no metadata['iccache']; pass the decision id instead, which "
            "ICCacheEventHandler.last_decision_id() returns right after the answer"
        )
    return str(provenance["decision_id"])


def _observe_call(synthesis: _Synthesis, event: BaseEvent) -> None:
    """Process a model's event. The last call gives the answer. Calls nest: `ICCacheLLM` calls its arms."""
    match event:
        case LLMChatStartEvent() | LLMCompletionStartEvent():
            synthesis.writer = named_model(event.model_dict.get)
            synthesis.info, synthesis.streamed = ResponseInfo(), False
            synthesis.messages = event.messages if isinstance(event, LLMChatStartEvent) else ()
        case LLMChatInProgressEvent() | LLMCompletionInProgressEvent():
            synthesis.info = synthesis.info.merge(ResponseInfo.of(event.response))
            synthesis.streamed = True
        case LLMChatEndEvent() | LLMCompletionEndEvent() if event.response is not None:
            synthesis.info = synthesis.info.merge(ResponseInfo.of(event.response))
            synthesis.last = event.response
            synthesis.provenance = None
        case ICCacheRouteEvent():  # comes after the events of the arm's model
            synthesis.provenance = event.provenance
        case _:
            pass


def _belongs(synthesis: _Synthesis, response: RESPONSE_TYPE) -> bool:
    """True if the postprocessor's choice belongs to this answer.

    A chat engine retrieves with a condensed question, so if the questions differ, the documents are compared.
    """
    handover = synthesis.handover
    if handover is None or handover.context != synthesis.context:
        return False
    documents = {node.node.node_id for node in response.source_nodes if not is_example(node)}
    return handover.question == synthesis.question or documents <= handover.documents


def _with_history(synthesis: _Synthesis, decision: Decision) -> Request:
    """The request, with the earlier turns unless its question was condensed from them."""
    request, handover = decision.request, synthesis.handover
    if handover and handover.question != synthesis.question:
        return request  # condensed already
    earlier = [turn for turn in normalised(synthesis.messages) if turn.role != "system"][:-1]
    for turn in handover.turns if handover else ():
        if turn in earlier:
            earlier.remove(turn)  # only once: an example may equal an earlier turn of this conversation
    return replace(request, messages=(*earlier, *request.messages))


def _outcome(synthesis: _Synthesis, text: str) -> Outcome:
    """How the answer ended. A lost connection looks like a stream's end, so a stream needs a finish reason."""
    assert synthesis.last is not None  # noqa: S101 - for the type checker; the caller has checked
    outcome = outcome_of(synthesis.last, synthesis.info)
    has_ended = not synthesis.streamed or synthesis.info.reason is not None
    return replace(
        outcome,
        answer=text
        if synthesis.streamed or text_of(synthesis.last).strip()
        else "",  # not LlamaIndex's "Empty Response"
        finished=outcome.finished and has_ended,
        writer=synthesis.writer or outcome.writer,
    )


def _set_provenance(response: RESPONSE_TYPE, provenance: Mapping[str, object] | None) -> None:
    """Write the provenance into the response's metadata; None removes it."""
    metadata = {name: value for name, value in (response.metadata or {}).items() if name != PROVENANCE}
    response.metadata = (metadata or None) if provenance is None else {**metadata, PROVENANCE: dict(provenance)}
    _last_id.set(str((provenance or {}).get("decision_id", "")))
