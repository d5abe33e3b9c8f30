"""`ICCacheMiddleware`: IC-Cache inside a LangChain agent (`create_agent`).

For each of the agent's model calls it picks the model and adds examples to what is sent. Both concern this one call:
the agent's state holds neither, so that no example is ever taken for something that was said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from iccache_langchain.arms import can_stream, model_name
from iccache_langchain.calls import ARM, DECISION, said_by
from iccache_langchain.chat_model import ICCacheChatModel
from iccache_langchain.messages import insert, outcome_of
from iccache_langchain.rateable import Rateable
from iccache_langchain.reader import QueryFunction, Reader, check_scope
from shared_core.adapters import KEYS, Context, current_context
from shared_core.adapters.construction import check_arms, routing_engine, settings_of, told_apart
from shared_core.adapters.endings import PROVENANCE
from shared_core.adapters.offloop import off_loop
from shared_core.adapters.surface import Surface
from shared_core.engine import Engine
from shared_core.errors import ExtraIsMissing, SettingIsWrong
from shared_core.manager.privacy import Redact
from shared_core.reward import Reward
from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.values import Decision, Request, Source, Style

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ExtendedModelResponse
    from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
    from langgraph.errors import GraphBubbleUp
except ImportError as error:
    raise ExtraIsMissing("langchain", "agents") from error

Asked: TypeAlias = ModelRequest[Any]
Answered: TypeAlias = ModelResponse[Any] | AIMessage | ExtendedModelResponse[Any]

_SERVED: Final = ("exact", "near")  # tiers of an answer that `ICCache` gave in the model's place


@dataclass(frozen=True, slots=True)
class _Call:
    """One model call of the agent after the decision: what was asked, and of which model."""

    decision: Decision
    asked: Asked
    model: BaseChatModel

    def sent(self) -> Asked:
        """The call for the chosen model, with the chosen examples in place."""
        stamp = {DECISION: self.decision.id, ARM: self.decision.arm}
        getattr(self.model, "_serialized", None)  # kept by the model, and so by its copies, which would make it anew
        model = self.model.model_copy(update={"metadata": {**(self.model.metadata or {}), **stamp}})
        if not self.decision.given:
            return self.asked.override(model=model)
        placed = insert(_conversation(self.asked), self.decision.insertion)
        return self.asked.override(model=model, messages=placed[len(_system(self.asked)) :])  # type: ignore[arg-type]  # a list is invariant


class ICCacheMiddleware(Rateable, AgentMiddleware[AgentState[Any], Any, Any]):
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
        costs: Relative cost of a request by arm; 1.0 for the reference unless given, and required for every other arm.
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``) or an open store; ``sqlite:///iccache.db`` if left
            out.
        embedder: Hub id, folder, LangChain `Embeddings` or callable; by default MiniLM.
        reward: Scores (request, answer) in [0, 1], or None for no opinion; `request.query` is the text that was asked.
            Runs off the request path, and not for answers that call tools. Where it fails, the answer is kept without a
            score.
        redact: Applied to texts before they are embedded or stored.
        settings: Every other knob. Each field of `Settings` may also be given as an argument of its own.
        scope: Whose requests these are where neither run nor context says so.
        strict_scope: Refuse runs that name no scope themselves: whether an agent is streamed, and so perhaps outside
            the `iccache_context` that it was called in, cannot be seen from inside.
        task: What kind of answer is wanted; by default a hash of system message, tools and response format.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded. Answers of later turns,
            those after tool results included, may then become examples; return "" where they should not.
        styles: How examples are rendered for an arm: ``"chat"`` (default) or ``"paper"``.
        engine: Share the engine of another surface; excludes store, embedder, reward, redact, settings and costs.
        background: False starts no loops; call ``engine.maintain()`` yourself.
        knobs: Fields of `Settings`.

    Raises:
        SettingIsWrong: The arguments contradict each other.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
        ExtraIsMissing: faiss, redis or sentence-transformers is needed and not installed.
    """

    engine: Engine

    def __init__(
        self,
        *,
        arms: Mapping[str, BaseChatModel | None],
        reference: str,
        costs: Mapping[str, float] | None = None,
        store: Store | str | None = None,
        embedder: object | None = None,
        reward: Reward | None = None,
        redact: Redact | None = None,
        settings: Settings | None = None,
        scope: str | None = None,
        strict_scope: bool = False,
        task: str | None = None,
        query_fn: QueryFunction | None = None,
        styles: Mapping[str, Style] | None = None,
        engine: Engine | None = None,
        background: bool = True,
        **knobs: Any,
    ) -> None:
        told_apart(knobs, (), type(self).__name__)
        check_scope(scope, task, strict_scope=strict_scope)
        _check_models(arms, reference)
        routing = routing_engine(
            list(arms),
            reference,
            costs=costs,
            styles=styles,
            store=store,
            embedder=embedder,
            reward=reward,
            redact=redact,
            settings=settings_of(settings, knobs),
            engine=engine,
            background=background,
        )
        self.engine = routing
        self._owns_engine = engine is None
        self._arms = dict(arms)
        self._surface = Surface(routing, reference)
        self._reader = Reader(routing.counters, scope, strict_scope, task, query_fn)

    # what the agent calls -------------------------------------------------------------------------------------

    def wrap_model_call(self, request: Asked, handler: Callable[[Asked], ModelResponse[Any]]) -> Answered:
        """Decide, call the chosen model, and keep what comes of it."""
        call = self._decided(request)
        try:
            answered = handler(call.sent())
        except GraphBubbleUp:  # an interrupt is no failure
            raise
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            answered = handler(call.sent())
        return self._finished(call, answered)

    async def awrap_model_call(
        self, request: Asked, handler: Callable[[Asked], Awaitable[ModelResponse[Any]]]
    ) -> Answered:
        """`wrap_model_call`, deciding on a thread."""
        call = await off_loop(self._decided, request)
        try:
            answered = await handler(call.sent())
        except GraphBubbleUp:  # an interrupt is no failure
            raise
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            answered = await handler(call.sent())
        return self._finished(call, answered)

    # beyond it ------------------------------------------------------------------------------------------------

    def add_examples(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        system: str | None = None,
        scope: str | None = None,
        task: str | None = None,
        source: Source = "import",
        writer: str = "",
    ) -> Sequence[str]:
        """Put (query, answer) pairs into the pool, durably; returns their ids.

        `system` is the system message of an agent without tools; it names the task unless a task is given. The task of
        an agent with tools depends on them too: name it.
        """
        scope, task = self._reader.place(Context(scope, task), system)
        self.engine.warm(scope)
        return self.engine.add_examples(pairs, scope=scope, task=task, source=source, writer=writer)

    # private --------------------------------------------------------------------------------------------------

    def _decided(self, asked: Asked) -> _Call:
        """Read the call, and decide. Raises nothing but `SettingIsWrong`, for what was set up wrongly."""
        decision = self._surface.decide(
            lambda: self._request(asked),
            bypass="the call names its own model" if "model" in asked.model_settings else "",
        )
        return _Call(decision, asked, self._arms[decision.arm] or asked.model)

    def _request(self, asked: Asked) -> Request:
        if isinstance(asked.model, ICCacheChatModel):
            raise SettingIsWrong(
                "this agent's model is an ICCacheChatModel, which routes by itself; give the agent one of its arms, or "
                "leave ICCacheMiddleware out"
            )
        params = dict(asked.model_settings)
        stop = params.pop("stop", None)
        params |= {
            "tools": [convert_to_openai_tool(tool) if isinstance(tool, BaseTool) else tool for tool in asked.tools],
            "tool_choice": asked.tool_choice,
            "response_format": _response_format(asked.response_format),
        }
        said = _said(asked, context_counts=not self._reader.strict_scope)
        return self._reader.request(_conversation(asked), said, params, stop)

    def _retreat(self, call: _Call, error: Exception) -> _Call:
        """The same call for the reference, after another arm failed; else raises `error`."""
        decision = self._surface.retreat(call.decision, error)
        return replace(call, decision=decision, model=self._arms[decision.arm] or call.asked.model)

    def _finished(self, call: _Call, answered: Answered) -> Answered:
        if isinstance(answered, ExtendedModelResponse):
            finished = self._finished(call, answered.model_response)
            return replace(answered, model_response=finished)  # type: ignore[arg-type]  # a response stays one
        if isinstance(answered, AIMessage):
            return self._kept(call, answered)
        result = [self._kept(call, m) if isinstance(m, AIMessage) else m for m in answered.result]
        return replace(answered, result=result)

    def _kept(self, call: _Call, answer: AIMessage) -> AIMessage:
        """A copy of the answer that says how it came about, once it is on its way into the store.

        What `ICCache` served says so already, and was not given by the model that was chosen.
        """
        before = answer.response_metadata.get(PROVENANCE)
        if isinstance(before, dict) and before.get("tier") in _SERVED:
            return answer
        outcome = outcome_of(answer, must_say_why=can_stream(call.model, {}))
        self._surface.record(call.decision, outcome, model_name(call.model))
        metadata = {**answer.response_metadata, PROVENANCE: call.decision.provenance()}
        return answer.model_copy(update={"response_metadata": metadata})


def _check_models(arms: Mapping[str, object], reference: str) -> None:
    """Refuse arms that an agent cannot call.

    Raises:
        SettingIsWrong: Fewer than two arms, an unknown reference, or an arm that is no chat model or routes by itself.
    """
    check_arms(list(arms), reference)
    if sum(arm is None for arm in arms.values()) > 1:
        raise SettingIsWrong("only one arm may be None, which stands for the agent's own model")
    for name, arm in arms.items():
        if arm is not None and not isinstance(arm, BaseChatModel):
            raise SettingIsWrong(
                f"arm {name!r} is a {type(arm).__name__}; an agent calls chat models (or None: its own)"
            )
        if isinstance(arm, ICCacheChatModel):
            raise SettingIsWrong(f"arm {name!r} is an ICCacheChatModel, which routes by itself; give its arms instead")


def _system(asked: Asked) -> list[BaseMessage]:
    return [asked.system_message] if asked.system_message else []


def _conversation(asked: Asked) -> list[BaseMessage]:
    return [*_system(asked), *asked.messages]


def _said(asked: Asked, *, context_counts: bool) -> Context:
    """What the run says: its ``configurable``, then the agent's context, then `iccache_context`."""
    given = getattr(asked.runtime, "context", None)
    entries = given if isinstance(given, Mapping) else {key: getattr(given, key) for key in KEYS if hasattr(given, key)}
    said = said_by({}, context_counts=False).over(Context.read(entries))
    return said.over(current_context()) if context_counts else said


def _response_format(wanted: object) -> object:
    """What a response format asks for, without the functions that a strategy may hold."""
    if isinstance(wanted, AutoStrategy | ProviderStrategy | ToolStrategy):
        return [type(wanted).__name__, wanted.schema]
    return wanted
