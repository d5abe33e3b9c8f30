"""`ICCacheMiddleware`: IC-Cache inside a LangChain agent (`create_agent`).

For each of the agent's model calls it picks the model and adds examples to what is sent. Both concern this one call:
the agent's state holds neither, so that no example is ever taken for something that was said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, Unpack

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from iccache_langchain.answers import written_by
from iccache_langchain.arms import can_stream
from iccache_langchain.calls import ARM, DECISION, FREE, QueryFunction, call_context
from iccache_langchain.chat_model import ICCacheChatModel
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import insert, normalised, outcome_of
from shared_core.adapters import KEYS, Context, current_context
from shared_core.adapters.factory import check_arms, routing_engine
from shared_core.adapters.lifecycle import ExampleOwner
from shared_core.adapters.options import RoutingOptions, read_options
from shared_core.adapters.provenance import PROVENANCE
from shared_core.adapters.requests import Requests
from shared_core.adapters.routing import RoutedCall, Routing, Transcript
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, ExtraIsMissing
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

_SERVED: Final = ("exact", "near")  # tiers of an answer that `ICCache` gave in the model's place


@dataclass(frozen=True, slots=True)
class AgentAnswers:
    """Reads what an agent's model calls answer.

    Attributes:
        models: By arm; the agent's own stands where an arm is None.
    """

    models: Mapping[str, BaseChatModel]

    def finished(self, decision: Decision, answer: AgentResponse) -> tuple[AgentResponse, Outcome | None]:
        """The answer with its message marked, and how that ended.

        What `ICCache` served says already how it came about, and was not given by the model that was chosen.
        """
        if isinstance(answer, ExtendedModelResponse):
            response, outcome = self.finished(decision, answer.model_response)
            return replace(answer, model_response=response), outcome  # type: ignore[arg-type]  # a response stays one
        if isinstance(answer, AIMessage):
            return self._marked(decision, answer), self._outcome(decision, answer)
        marked = [self._marked(decision, m) if isinstance(m, AIMessage) else m for m in answer.result]
        reply = next((m for m in answer.result if isinstance(m, AIMessage)), None)
        return replace(answer, result=marked), self._outcome(decision, reply) if reply else None

    def has_begun(self, piece: AgentResponse) -> bool:
        """True: an agent's answers come whole."""
        return bool(piece)

    def transcript(self, decision: Decision) -> Transcript[AgentResponse]:
        """None of them is streamed.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("an agent's model calls are not streamed through its middleware")

    def _marked(self, decision: Decision, answer: AIMessage) -> AIMessage:
        if _was_served(answer):
            return answer
        metadata = {**answer.response_metadata, PROVENANCE: decision.provenance()}
        return answer.model_copy(update={"response_metadata": metadata})

    def _outcome(self, decision: Decision, answer: AIMessage) -> Outcome | None:
        if _was_served(answer):
            return None
        model = self.models[decision.arm]
        return written_by(outcome_of(answer, require_finish_reason=can_stream(model, {})), model)


class ICCacheMiddleware(ExampleOwner, Rateable, AgentMiddleware[AgentState[Any], Any, Any]):
    """Lets a small model take over those of an agent's turns that it has become good enough for.

    ```python
    agent = create_agent(
        large, tools,
        middleware=[ICCacheMiddleware(arms={"small": small, "large": None}, reference="large", costs={"small": 0.1})],
    )
    ```

    The agent binds tools and response format to whichever model is chosen. A turn that follows a tool's result is
    routed, and gets no examples. Every answer in the agent's state says how it came about, in
    ``response_metadata["iccache"]``; while it is streamed, the metadata of its tokens holds ``iccache_decision_id``.

    A run names its scope, task and ``iccache_no_store`` in ``config["configurable"]``, in the agent's context (by
    these names: ``iccache_scope``, …) or through `iccache_context`, in this order of precedence.

    Args:
        arms: Candidate chat models by name. One may be None: the model that the agent has anyway, or that a middleware
            further out has put in its place.
        reference: The arm whose answers become examples, whose quality is the yardstick, and which answers whenever
            IC-Cache cannot decide or another arm fails. It is shown no examples.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded. Answers of later turns,
            those after tool results included, may then become examples; return "" where they should not.
        options: See `RoutingOptions`. The reward function does not see answers that call tools. `strict_scope` refuses
            runs that name no scope themselves: whether an agent is streamed, and so perhaps outside the
            `iccache_context` that it was called in, cannot be seen from inside.
    """

    engine: Engine

    def __init__(
        self,
        *,
        arms: Mapping[str, BaseChatModel | None],
        reference: str,
        query_fn: QueryFunction | None = None,
        **options: Unpack[RoutingOptions],
    ) -> None:
        given = read_options(options, RoutingOptions, type(self).__name__)
        _check_models(arms, reference)
        self.engine = routing_engine(list(arms), reference, given)
        self._owns_engine = "engine" not in given.engine
        self._arms = dict(arms)
        self._reference = reference
        self._reader = Requests(
            normalised, self.counters, given.scope, given.strict_scope, given.task, query_fn, free=FREE
        )

    # what the agent calls -------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: AgentRequest, handler: Callable[[AgentRequest], ModelResponse[Any]]
    ) -> AgentResponse:
        """Decide, call the chosen model, and keep what comes of it."""
        routing = Routing(self.engine, self._reference)
        decision = routing.decide(lambda: self._request(request), bypass=_bypass(request))
        models = self._models(request)
        call = self._routed(routing, decision, models)
        return call.run(lambda decision: handler(_sent(request, decision, models[decision.arm])))

    async def awrap_model_call(
        self, request: AgentRequest, handler: Callable[[AgentRequest], Awaitable[ModelResponse[Any]]]
    ) -> AgentResponse:
        """`wrap_model_call` for event loops."""
        routing, may_block = Routing(self.engine, self._reference), self._requests.query_fn is not None
        decision = await routing.adecide(lambda: self._request(request), bypass=_bypass(request), may_block=may_block)
        models = self._models(request)
        call = self._routed(routing, decision, models)
        return await call.arun(lambda decision: handler(_sent(request, decision, models[decision.arm])))

    # private --------------------------------------------------------------------------------------------------

    @property
    def _requests(self) -> Requests[BaseMessage]:
        return self._reader

    def _models(self, request: AgentRequest) -> Mapping[str, BaseChatModel]:
        """The model behind each arm for this call."""
        return {name: model or request.model for name, model in self._arms.items()}

    def _routed(
        self, routing: Routing, decision: Decision, models: Mapping[str, BaseChatModel]
    ) -> RoutedCall[AgentResponse, AgentResponse]:
        return RoutedCall(routing, decision, AgentAnswers(models), not_failures=(GraphBubbleUp,))

    def _request(self, request: AgentRequest) -> Request:
        if isinstance(request.model, ICCacheChatModel):
            raise ConfigurationError(
                "this agent's model is an ICCacheChatModel, which routes by itself; give the agent one of its arms, or "
                "leave ICCacheMiddleware out"
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
        ConfigurationError: Fewer than two arms, an unknown reference, or an arm that is no chat model or routes by itself.
    """
    check_arms(list(arms), reference)
    if sum(arm is None for arm in arms.values()) > 1:
        raise ConfigurationError("only one arm may be None, which stands for the agent's own model")
    for name, arm in arms.items():
        if arm is not None and not isinstance(arm, BaseChatModel):
            raise ConfigurationError(
                f"arm {name!r} is a {type(arm).__name__}; an agent calls chat models (or None: its own)"
            )
        if isinstance(arm, ICCacheChatModel):
            raise ConfigurationError(
                f"arm {name!r} is an ICCacheChatModel, which routes by itself; give its arms instead"
            )


def _bypass(request: AgentRequest) -> str:
    return "the call names its own model" if "model" in request.model_settings else ""


def _sent(request: AgentRequest, decision: Decision, model: BaseChatModel) -> AgentRequest:
    """The call for the chosen model, with the chosen examples in place."""
    stamp = {DECISION: decision.id, ARM: decision.arm}
    getattr(model, "_serialized", None)  # cached by the model, and so by its copies, which would each work it out
    model = model.model_copy(update={"metadata": {**(model.metadata or {}), **stamp}})
    if not decision.given:
        return request.override(model=model)
    placed = insert(_conversation(request), decision.insertion)
    return request.override(model=model, messages=placed[len(_system(request)) :])  # type: ignore[arg-type]  # a list is invariant


def _was_served(answer: AIMessage) -> bool:
    """True if `ICCache` answered in the model's place."""
    provenance = answer.response_metadata.get(PROVENANCE)
    return isinstance(provenance, dict) and provenance.get("tier") in _SERVED


def _system(request: AgentRequest) -> list[BaseMessage]:
    return [request.system_message] if request.system_message else []


def _conversation(request: AgentRequest) -> list[BaseMessage]:
    return [*_system(request), *request.messages]


def _run_context(request: AgentRequest, *, context_counts: bool) -> Context:
    """What the run says: its ``configurable``, then the agent's context, then `iccache_context`."""
    given = getattr(request.runtime, "context", None)
    entries = given if isinstance(given, Mapping) else {key: getattr(given, key) for key in KEYS if hasattr(given, key)}
    context = call_context({}, context_counts=False).over(Context.read(entries))
    return context.over(current_context()) if context_counts else context


def _response_format(wanted: object) -> object:
    """What a response format asks for, without the functions that a strategy may hold."""
    if isinstance(wanted, AutoStrategy | ProviderStrategy | ToolStrategy):
        return [type(wanted).__name__, wanted.schema]
    return wanted
