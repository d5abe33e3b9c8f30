"""`ICCacheMiddleware`: IC-Cache inside a LangChain agent (`create_agent`).

For each model call of the agent it picks the model and adds examples to the messages. Both apply to this call only. The
agent's state never holds examples, so they cannot be mistaken for real turns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, Unpack

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from typing_extensions import override

from iccache_langchain.arms import can_stream, model_name
from iccache_langchain.calls import BY_CONFIG, FREE, QueryFunction, call_context
from iccache_langchain.chat_model import ICCacheChatModel
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import insert, normalised, outcome_of
from shared_core.adapters.arguments import check_query_fn
from shared_core.adapters.attempt import WholeAnswers
from shared_core.adapters.context import ARM, DECISION, PREFIX, Context, current_context
from shared_core.adapters.factory import check_arms, routing_engine
from shared_core.adapters.lifecycle import ExampleOwner
from shared_core.adapters.options import RoutingOptions, read_options
from shared_core.adapters.parameters import bypass_of
from shared_core.adapters.provenance import PROVENANCE
from shared_core.adapters.requests import Requests
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, ExtraIsMissing, kind_of
from shared_core.values import Decision, Outcome, Request

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ExtendedModelResponse
    from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
    from langgraph.errors import GraphBubbleUp
except ImportError as error:
    raise ExtraIsMissing("langchain", "agents") from error

AgentRequest: TypeAlias = ModelRequest[Any]
AgentResponse: TypeAlias = ModelResponse[Any] | AIMessage | ExtendedModelResponse[Any]

_SERVED: Final = ("exact", "near")  # tiers of answers that `ICCache` served instead of the model


@dataclass(frozen=True, slots=True)
class AgentAnswers(WholeAnswers[AgentResponse]):
    """Reads the answers of an agent's model calls.

    Attributes:
        models: The model of each arm; the agent's own model for an arm that is None.
    """

    models: Mapping[str, BaseChatModel]

    @override
    def finished(self, decision: Decision, answer: AgentResponse) -> tuple[AgentResponse, Outcome | None]:
        """The answer with its provenance, and how the call ended.

        An answer that `ICCache` served holds its provenance already, and does not come from the chosen model.
        """
        if isinstance(answer, ExtendedModelResponse):
            response, outcome = self.finished(decision, answer.model_response)
            return replace(answer, model_response=response), outcome  # type: ignore[arg-type]  # a response stays one
        if isinstance(answer, AIMessage):
            return self._marked(decision, answer), self._outcome(decision, answer)
        marked = [self._marked(decision, m) if isinstance(m, AIMessage) else m for m in answer.result]
        reply = next((m for m in answer.result if isinstance(m, AIMessage)), None)
        return replace(answer, result=marked), self._outcome(decision, reply) if reply else None

    def _marked(self, decision: Decision, answer: AIMessage) -> AIMessage:
        if _was_served(answer):
            return answer
        metadata = {**answer.response_metadata, PROVENANCE: decision.provenance()}
        return answer.model_copy(update={"response_metadata": metadata})

    def _outcome(self, decision: Decision, answer: AIMessage) -> Outcome | None:
        if _was_served(answer):
            return None
        model = self.models[decision.arm]
        outcome = outcome_of(answer, require_finish_reason=can_stream(model, {}))
        return replace(outcome, writer=outcome.writer or model_name(model))


class ICCacheMiddleware(ExampleOwner, Rateable, AgentMiddleware[AgentState[Any], Any, Any]):
    """Routes each model call of an agent to the cheapest arm that is good enough, adding past answers as examples.

    ```python
    agent = create_agent(
        large, tools,
        middleware=[ICCacheMiddleware(arms={"small": small, "large": None}, reference="large", costs={"small": 0.1})],
    )
    ```

    The agent binds tools and response format to the chosen model. A turn after a tool's result is routed, but gets no
    examples. Every answer in the agent's state holds its decision in ``response_metadata["iccache"]``; the metadata of
    streamed tokens holds ``iccache_decision_id``.

    A run sets ``iccache_scope``, ``iccache_task`` and ``iccache_no_store``, in this order of precedence, in
    ``config["configurable"]``, in the agent's context (under the same names), or by `iccache_context`.

    Args:
        arms: Candidate chat models by name. One may be None, which stands for the agent's own model or the model that
            an outer middleware has set.
        reference: The arm whose answers become examples and whose quality is the yardstick. It also answers when
            IC-Cache cannot decide, or when another arm fails. It gets no examples.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded; later turns may then
            become examples. If it fails, there are no examples. Return "" for turns that should not become examples;
            turns after tool results may.
        options: See `RoutingOptions`. The reward function does not see answers that call tools. With `strict_scope`, a
            run needs its scope in its config or context: `iccache_context` does not count, because a streamed agent may
            run outside of it.
    """

    engine: Engine

    @with_options(RoutingOptions)
    def __init__(
        self,
        *,
        arms: Mapping[str, BaseChatModel | None],
        reference: str,
        query_fn: QueryFunction | None = None,
        **options: Unpack[RoutingOptions],
    ) -> None:
        given = read_options(options, RoutingOptions)
        check_query_fn(query_fn)
        _check_models(arms, reference)
        self.engine = routing_engine(list(arms), reference, given)
        self._owns_engine = given.owns_engine
        self._arms = dict(arms)
        self._reference = reference
        self._reader = Requests(
            normalised,
            self.engine.failures,
            given.scope,
            given.strict_scope,
            given.task,
            query_fn,
            free=FREE,
            scope_advice=f"{BY_CONFIG}, or in context={{'iccache_scope': …}} of the agent's call",
        )

    # what the agent calls -------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: AgentRequest, handler: Callable[[AgentRequest], ModelResponse[Any]]
    ) -> AgentResponse:
        """Decide, call the chosen model, and record its answer."""
        routing = Routing(self.engine, self._reference)
        decision = routing.decide(lambda: self._request(request), bypass=bypass_of(request.model_settings))
        models = self._models(request)
        call = self._routed(routing, decision, models)
        return call.run(lambda decision: handler(_sent(request, decision, models[decision.arm])))

    async def awrap_model_call(
        self, request: AgentRequest, handler: Callable[[AgentRequest], Awaitable[ModelResponse[Any]]]
    ) -> AgentResponse:
        """`wrap_model_call` for event loops."""
        routing, may_block = Routing(self.engine, self._reference), self._requests.query_fn is not None
        decision = await routing.adecide(
            lambda: self._request(request), bypass=bypass_of(request.model_settings), may_block=may_block
        )
        models = self._models(request)
        call = self._routed(routing, decision, models)
        return await call.arun(lambda decision: handler(_sent(request, decision, models[decision.arm])))

    # private --------------------------------------------------------------------------------------------------

    @property
    def _requests(self) -> Requests[BaseMessage]:
        return self._reader

    def _models(self, request: AgentRequest) -> Mapping[str, BaseChatModel]:
        """The model of each arm for this call."""
        return {name: model or request.model for name, model in self._arms.items()}

    def _routed(
        self, routing: Routing, decision: Decision, models: Mapping[str, BaseChatModel]
    ) -> RoutedCall[AgentResponse, AgentResponse]:
        return RoutedCall(routing, decision, AgentAnswers(models), not_failures=(GraphBubbleUp,))

    def _request(self, request: AgentRequest) -> Request:
        if isinstance(request.model, ICCacheChatModel):
            raise ConfigurationError(
                "the agent's model is an ICCacheChatModel, which routes by itself; give the agent one of its arms, or "
                "remove ICCacheMiddleware"
            )
        params = dict(request.model_settings)
        stop = params.pop("stop", None)
        params |= {
            "tools": [convert_to_openai_tool(tool) if isinstance(tool, BaseTool) else tool for tool in request.tools],
            "tool_choice": request.tool_choice,
            "response_format": _response_format(request.response_format),
        }
        context = _run_context(request, context_counts=not self._requests.strict_scope)
        return self._requests.request(_conversation(request), context, params, stop)


def _check_models(arms: Mapping[str, object], reference: str) -> None:
    """Refuse arms that an agent cannot call.

    Raises:
        ConfigurationError: Fewer than two arms, an unknown reference, or an arm that is a router or not a chat model.
    """
    check_arms(arms, reference)
    if sum(arm is None for arm in arms.values()) > 1:
        raise ConfigurationError("only one arm may be None (the agent's own model); give a model for every other arm")
    for name, arm in arms.items():
        if arm is not None and not isinstance(arm, BaseChatModel):
            raise ConfigurationError(
                f"arm {name!r} is {kind_of(arm)}, not a chat model; use None for the agent's own model"
            )


def _sent(request: AgentRequest, decision: Decision, model: BaseChatModel) -> AgentRequest:
    """The call to the chosen model, with the chosen examples inserted."""
    stamp = {DECISION: decision.id, ARM: decision.arm}
    getattr(model, "_serialized", None)  # computed once here, because copies share the cached value
    model = model.model_copy(update={"metadata": {**(model.metadata or {}), **stamp}})
    if not decision.given:
        return request.override(model=model)
    placed = insert(_conversation(request), decision.insertion)
    return request.override(model=model, messages=placed[len(_system(request)) :])  # type: ignore[arg-type]  # a list is invariant


def _was_served(answer: AIMessage) -> bool:
    """True if `ICCache` answered instead of the model."""
    provenance = answer.response_metadata.get(PROVENANCE)
    return isinstance(provenance, dict) and provenance.get("tier") in _SERVED


def _system(request: AgentRequest) -> list[BaseMessage]:
    return [request.system_message] if request.system_message else []


def _conversation(request: AgentRequest) -> list[BaseMessage]:
    return [*_system(request), *request.messages]


def _run_context(request: AgentRequest, *, context_counts: bool) -> Context:
    """Scope and task of the run, by precedence: its ``configurable``, the agent's context, `iccache_context`."""
    given = getattr(request.runtime, "context", None)
    names = [] if isinstance(given, Mapping) else [name for name in dir(given) if name.startswith(PREFIX)]
    entries = given if isinstance(given, Mapping) else {name: getattr(given, name) for name in names}
    context = call_context({}, context_counts=False).over(Context.read(entries))
    return context.over(current_context()) if context_counts else context


def _response_format(requested: object) -> object:
    """The schema of a response format, without the functions that a strategy may hold."""
    if isinstance(requested, AutoStrategy | ProviderStrategy | ToolStrategy):
        return [type(requested).__name__, requested.schema]
    return requested
