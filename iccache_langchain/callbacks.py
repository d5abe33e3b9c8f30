"""`ICCacheCallbackHandler`: examples from the answers of chat models that IC-Cache does not wrap, streamed ones too."""

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

from iccache_langchain.calls import DECISION, FREE, QueryFunction, call_context
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import normalised, outcome_of
from shared_core.adapters import Context
from shared_core.adapters.factory import example_engine
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.parameters import decision_id
from shared_core.adapters.provenance import MODEL_KEYS, PROVENANCE, is_trusted, named_model
from shared_core.adapters.requests import Requests
from shared_core.engine import Engine
from shared_core.store.protocol import Store
from shared_core.values import UNROUTED, Decision, Outcome, Route

PENDING_LIMIT: Final = 1024  # calls under way; one whose end LangChain never told would stay for good

_DESCRIPTIONS: Final = frozenset({*MODEL_KEYS, "_type", "streaming"})  # of the model, no parameters of the call
_RUN_OF_MESSAGE: Final = re.compile(r"lc_run--([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class _PendingCall:
    """One call under way, as it was when it began."""

    messages: Sequence[BaseMessage]
    context: Context
    params: Mapping[str, Any]
    stop: Sequence[str] | None
    writer: str


class ICCacheCallbackHandler(Rateable, BaseCallbackHandler):
    """Watches chat models and keeps their answers as examples, for whichever surface shows examples from this pool.

    ```python
    handler = ICCacheCallbackHandler(store="sqlite:///iccache.db", reference="qwen2.5-32b")
    chain.invoke({"question": "…"}, config={"callbacks": [handler], "metadata": {"iccache_scope": "acme"}})
    ```

    A response cache is not told about streamed calls; this handler is. An answer becomes an example once the model has
    said that it ended by itself. What came through another surface of IC-Cache is left to that one.

    LangChain shows a handler the metadata of a call and not its ``configurable``: name the scope of a single call by
    ``metadata={"iccache_scope": …}``. Inside a chain or a graph, its ``configurable`` counts as well, then
    `iccache_context`, then `scope`.

    Nothing here waits, so the handler runs inline on the event loop of async runs (`run_inline`): what takes time is
    done by the engine's writer.

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``) or an open store; ``sqlite:///iccache.db`` if left
            out.
        reference: The model whose answers may become examples, named as its LangChain class names it. By default those
            of every model that gives its name. Another model's answers are kept once they are rated well.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded; later turns may then
            become examples.
        options: See `EngineOptions`. `strict_scope` keeps nothing of calls that name no scope.
    """

    run_inline = True
    engine: Engine

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        reference: str | None = None,
        query_fn: QueryFunction | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions, type(self).__name__)
        self.engine = example_engine(store, given)
        self._owns_engine = "engine" not in given.engine
        self._reference = reference
        self._requests = Requests(
            normalised, self.counters, given.scope, given.strict_scope, given.task, query_fn, free=FREE
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
        """Remember the conversation and its context."""
        if DECISION in (metadata or {}):
            return  # an arm of ICCacheMiddleware
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
        """Hand question and answer to the engine's writer."""
        call = self._forget(run_id)
        generations = response.generations[0] if response.generations else []
        if call is None or not generations:
            return
        first = generations[0]
        answer = first.message if isinstance(first, ChatGeneration) else None
        if not isinstance(answer, AIMessage) or PROVENANCE in answer.response_metadata:
            return
        self.engine.submit(self._keep, run_id, call, answer, len(generations) == 1)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002 - LangChain's
        """Forget a call that failed, or whose stream was left early."""
        self._forget(run_id)

    # beyond it ------------------------------------------------------------------------------------------------

    def record_feedback(self, answer: BaseMessage | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1]: by its run id, or by its message if that still has LangChain's id. Does not wait.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the message tells no run.
        """
        if isinstance(answer, BaseMessage) and PROVENANCE not in answer.response_metadata:
            named = _RUN_OF_MESSAGE.match(answer.id or "")
            answer = UUID(named[1]) if named else answer
        super().record_feedback(answer, score, rater)

    # private --------------------------------------------------------------------------------------------------

    def _keep(self, run_id: UUID, call: _PendingCall, answer: AIMessage, is_only: bool) -> None:
        """Store an answer, on the engine's writer."""
        try:
            request = self._requests.request(call.messages, call.context, call.params, call.stop)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failed("observe", error)
            return
        outcome = self._outcome(call, answer, is_only)
        route = Route(outcome.writer or UNROUTED, reason="observed")
        decision = Decision(decision_id(run_id), request, route, created_at=time.time())
        self.engine.record(decision, outcome, trusted=is_trusted(call.writer, self._reference))

    def _outcome(self, call: _PendingCall, answer: AIMessage, is_only: bool) -> Outcome:
        """How the call ended. Whether it was streamed is not told, so the model must say why it stopped."""
        outcome = outcome_of(answer, require_finish_reason=True)
        return replace(outcome, finished=outcome.finished and is_only, writer=call.writer or outcome.writer)

    def _forget(self, run_id: UUID) -> _PendingCall | None:
        with self._lock:
            return self._pending.pop(run_id, None)


def _pending_call(
    messages: Sequence[BaseMessage], metadata: Mapping[str, Any], invocation: Mapping[str, Any]
) -> _PendingCall:
    """What is known of a call when it begins: its scope is read here, where the caller's context holds.

    Raises:
        ConfigurationError: An empty scope or task.
    """
    context = Context.read(metadata).over(call_context({}, context_counts=True))
    writer = named_model(invocation.get) or str(metadata.get("ls_model_name") or "")
    params = {name: value for name, value in invocation.items() if name not in _DESCRIPTIONS}
    return _PendingCall(list(messages), context, params, params.pop("stop", None), writer)
