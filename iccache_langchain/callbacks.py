"""`ICCacheCallbackHandler`: collects examples from chat models that IC-Cache does not wrap, also from streams."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Unpack
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from iccache_langchain.calls import FREE, QueryFunction, call_context
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import normalised, outcome_of
from shared_core.adapters.arguments import check_query_fn, check_text
from shared_core.adapters.context import DECISION, Context
from shared_core.adapters.factory import example_engine
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.parameters import decision_id
from shared_core.adapters.provenance import PROVENANCE, is_trusted
from shared_core.adapters.requests import Requests
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.inference.naming import MODEL_KEYS, named_model
from shared_core.store.address import StoreLike
from shared_core.values import UNROUTED, Decision, Outcome, Route

PENDING_LIMIT: Final = 1024  # running calls; bounded, because LangChain may never report the end of a call

_DESCRIPTIONS: Final = frozenset({*MODEL_KEYS, "_type", "streaming"})  # these describe the model, not the call
_RUN_OF_MESSAGE: Final = re.compile(r"lc_run--([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class _PendingCall:
    """A running call, as it started."""

    messages: Sequence[BaseMessage]
    context: Context
    params: Mapping[str, Any]
    stop: Sequence[str] | None
    writer: str


class ICCacheCallbackHandler(Rateable, BaseCallbackHandler):
    """Observes chat models and stores their answers as examples, for the surfaces that use the same pool.

    ```python
    handler = ICCacheCallbackHandler(store="sqlite:///iccache.db", reference="qwen2.5-32b")
    chain.invoke({"question": "…"}, config={"callbacks": [handler], "metadata": {"iccache_scope": "acme"}})
    ```

    Unlike a response cache, the handler also sees streamed calls. An answer becomes an example once its finish reason
    shows that it is complete. Other surfaces of IC-Cache record their own answers.

    LangChain passes a handler the metadata of a call, but not its ``configurable``: set the scope of a single call by
    ``metadata={"iccache_scope": …}``. Inside a chain or a graph, its ``configurable`` counts as well, then
    `iccache_context`, then `scope`.

    The handler never waits: slow work runs on the engine's writer. So it can run inline on an event loop
    (`run_inline`).

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; by default
            ``sqlite:///iccache.db``.
        reference: The model whose answers may become examples, as its LangChain class names it; by default every model
            that gives its name. Answers of other models become examples only after good feedback.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded; later turns may then
            become examples. If it fails, there are no examples.
        options: See `EngineOptions`. With `strict_scope`, calls without a scope are not stored.
    """

    run_inline = True
    engine: Engine

    @with_options(EngineOptions)
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        reference: str | None = None,
        query_fn: QueryFunction | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions)
        check_query_fn(query_fn)
        check_text("reference", reference, "the name of a model")
        self.engine = example_engine(store, given)
        self._owns_engine = given.owns_engine
        self._reference = reference
        self._requests = Requests(
            normalised, self.engine.failures, given.scope, given.strict_scope, given.task, query_fn, free=FREE
        )
        self._lock = threading.Lock()
        self._pending: OrderedDict[UUID, _PendingCall] = OrderedDict()

    # what LangChain calls: nothing here waits, and nothing raises -----------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's interface
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the call until it ends."""
        if DECISION in (metadata or {}):
            return  # a call of ICCacheMiddleware, which records its answers itself
        try:
            call = _pending_call(messages[0], metadata or {}, kwargs.get("invocation_params") or {})
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failed("observe", error)
            return
        with self._lock:
            self._pending[run_id] = call
            if len(self._pending) > PENDING_LIMIT:
                self._pending.popitem(last=False)
                self.engine.counters.count("observe.never_ended")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002 - LangChain's
        """Pass question and answer to the engine's writer."""
        call = self._forget(run_id)
        generations = response.generations[0] if response.generations else []
        if call is None or not generations:
            return
        first = generations[0]
        answer = first.message if isinstance(first, ChatGeneration) else None
        if not isinstance(answer, AIMessage) or PROVENANCE in answer.response_metadata:
            return
        self.engine.submit(self._record, run_id, call, answer, len(generations) == 1)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002 - LangChain's
        """Forget a call that failed, or whose stream was not read to its end."""
        self._forget(run_id)

    # beyond it ------------------------------------------------------------------------------------------------

    def record_feedback(self, answer: BaseMessage | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1], by its run id or by its message with LangChain's id. Does not wait.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the answer is neither a message nor an id.
            NotFromICCache: The message has no run id.
        """
        if isinstance(answer, BaseMessage) and PROVENANCE not in answer.response_metadata:
            named = _RUN_OF_MESSAGE.match(answer.id or "")
            answer = UUID(named[1]) if named else answer
        super().record_feedback(answer, score, rater)

    # private --------------------------------------------------------------------------------------------------

    def _record(self, run_id: UUID, call: _PendingCall, answer: AIMessage, is_only: bool) -> None:
        """Read an answer and have it stored, on the engine's writer."""
        try:
            request = self._requests.request(call.messages, call.context, call.params, call.stop)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failed("observe", error)
            return
        outcome = self._outcome(call, answer, is_only)
        route = Route(outcome.writer or UNROUTED, reason="observed")
        decision = Decision(decision_id(run_id), request, route, created_at=time.time())
        self.engine.submit_record(decision, outcome, trusted=is_trusted(call.writer, self._reference))

    def _outcome(self, call: _PendingCall, answer: AIMessage, is_only: bool) -> Outcome:
        """How the call ended. It may have been streamed, so only an answer with a finish reason is complete."""
        outcome = outcome_of(answer, require_finish_reason=True)
        return replace(outcome, finished=outcome.finished and is_only, writer=call.writer or outcome.writer)

    def _forget(self, run_id: UUID) -> _PendingCall | None:
        with self._lock:
            return self._pending.pop(run_id, None)


def _pending_call(
    messages: Sequence[BaseMessage], metadata: Mapping[str, Any], invocation: Mapping[str, Any]
) -> _PendingCall:
    """The call as it starts. Its scope is read here, because the caller's context variables are set here.

    Raises:
        ConfigurationError: An empty scope or task.
    """
    context = Context.read(metadata).over(call_context({}, context_counts=True))
    writer = named_model(invocation.get) or str(metadata.get("ls_model_name") or "")
    params = {name: value for name, value in invocation.items() if name not in _DESCRIPTIONS}
    return _PendingCall(list(messages), context, params, params.pop("stop", None), writer)
