"""`ICCacheChatModel`: several chat models behind one, with past answers as examples (DESIGN.md §1).

It delegates to the `_generate`, `_agenerate`, `_stream` and `_astream` of the model that the router picks. So a chain
sees one run, one set of tokens, streaming, tools and structured output as if there were one model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast
from uuid import UUID, uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableParallel, RunnableSequence
from langchain_core.runnables.config import ensure_config, run_in_executor
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from iccache_langchain.arms import agenerate, astream, generate, model_name, stream
from iccache_langchain.messages import PROVENANCE, decision_id_of, insert, normalised, outcome_of
from shared_core.adapters import KEYS, Context, build_request, current_context
from shared_core.engine import Engine, Reward
from shared_core.errors import SettingIsWrong
from shared_core.inference.embedders import as_embedder, default_embedder
from shared_core.manager.privacy import Redact
from shared_core.settings import Settings
from shared_core.values import Arm, Decision, Message, Outcome, Request, Route, Source, Style, canonical_json

QueryFunction: TypeAlias = Callable[[Sequence[Message]], str]
# LangChain's standard parameters: the first go out with every call, the others belong to the arms' own constructors.
_FORWARDED: Final = ("temperature", "max_tokens", "stop")
_FORM: Final = frozenset({"tools", "functions", "response_format"})  # what binds an answer to a form
_OF_THE_ARMS: Final = frozenset({"timeout", "max_retries", "api_key", "streaming"})


@dataclass(frozen=True, slots=True)
class _Call:
    """One call, its IC-Cache arguments taken out of LangChain's."""

    messages: Sequence[BaseMessage]
    stop: list[str] | None
    kwargs: Mapping[str, Any]
    request: Request
    decision_id: str


class ICCacheChatModel(BaseChatModel):
    """A chat model that lets a small model take over what it has become good enough for.

    ```python
    llm = ICCacheChatModel(
        arms={"small": ChatOpenAI(...), "large": ChatOpenAI(...)},
        reference="large", costs={"small": 0.1, "large": 1.0},
        store="sqlite:///iccache.db", reward=my_score,
    )
    ```

    Every answer says how it came about in ``response_metadata["iccache"]``. One call is steered by
    ``bind(iccache_scope=…, iccache_task=…, iccache_no_store=True)``, by the same names in ``config["configurable"]``,
    or by `iccache_context`, in this order of precedence. Every field of `Settings` may be given as an argument.

    Args:
        arms: Candidate models by name: any LangChain chat model, or completion model.
        reference: The arm whose answers become examples, whose quality is the yardstick, and which answers whenever
            IC-Cache cannot decide. It is shown no examples.
        costs: Relative cost of a request by arm, 1.0 for the reference unless given.
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``) or an open store.
        embedder: Hub id, folder, LangChain `Embeddings` or callable; by default MiniLM.
        reward: Scores (request, answer) in [0, 1], or None for no opinion; runs off the request path.
        redact: Applied to texts before they are embedded or stored.
        scope: Whose requests these are where neither call nor context says so.
        strict_scope: Refuse calls that name no scope.
        task: What kind of answer is wanted; by default a hash of system message, tools and response format.
        query_fn: Condenses a conversation into the text that is embedded.
        styles: How examples are rendered for an arm: ``"chat"`` (default) or ``"paper"``.
        engine: Share the engine of another surface; excludes store, embedder, reward, redact and settings.
        background: False starts no loops; call ``engine.maintain()`` yourself.

    Raises:
        SettingIsWrong: The arguments contradict each other.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
        ExtraIsMissing: faiss, redis or sentence-transformers is needed and not installed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    arms: dict[str, Any] = Field(exclude=True)
    reference: str
    costs: dict[str, float] = Field(default_factory=dict)
    store: Any = Field("sqlite:///iccache.db", exclude=True)
    embedder: Any = Field(None, exclude=True)
    reward: Reward | None = Field(None, exclude=True)
    redact: Redact | None = Field(None, exclude=True)
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    query_fn: QueryFunction | None = Field(None, exclude=True)
    styles: dict[str, Style] = Field(default_factory=dict)
    settings: Settings | None = None
    engine: Any = Field(None, exclude=True)
    background: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)

    _engine: Engine = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Settings by name into `settings`, LangChain's standard parameters into `parameters`; nothing else unknown."""
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        knobs = {name: value for name, value in given.items() if name in Settings.model_fields}
        sent = {name: given[name] for name in _FORWARDED if given.get(name)}
        unknown = set(given) - set(known) - set(knobs) - set(_FORWARDED) - _OF_THE_ARMS
        if unknown:
            names = ", ".join(sorted(unknown))
            raise SettingIsWrong(f"ICCacheChatModel takes no {names}; see Settings for the knobs it does take")
        if knobs and known.get("settings") is not None:
            raise SettingIsWrong(f"give {', '.join(sorted(knobs))} within settings=, or instead of it")
        if knobs:
            known["settings"] = Settings(**knobs)
        known["parameters"] = {**sent, **known.get("parameters", {})}
        return known

    def model_post_init(self, context: Any, /) -> None:
        """Open the engine: misuse is refused here, not at the first call."""
        super().model_post_init(context)
        if len(self.arms) < 2:
            raise SettingIsWrong(f"routing needs at least two arms; got {list(self.arms)}")
        for name, arm in self.arms.items():
            if not isinstance(arm, BaseChatModel | BaseLLM):
                raise SettingIsWrong(
                    f"arm {name!r} is a {type(arm).__name__}, not a LangChain chat or completion model"
                )
        if self.reference not in self.arms:
            raise SettingIsWrong(f"reference={self.reference!r} is none of the arms {list(self.arms)}")
        missing = [name for name in self.arms if name not in self.costs and name != self.reference]
        if missing:
            raise SettingIsWrong(
                f"costs lack {', '.join(missing)}; give each arm's cost relative to the reference's 1.0"
            )
        self._engine = self.engine or self._open()
        self.engine = self._engine

    def _open(self) -> Engine:
        return Engine(
            store=self.store,
            arms=[
                Arm(
                    name,
                    self.costs.get(name, 1.0),
                    uses_examples=name != self.reference,
                    style=self.styles.get(name, "chat"),
                )
                for name in self.arms
            ],
            reference=self.reference,
            embedder=default_embedder() if self.embedder is None else as_embedder(self.embedder),
            settings=self.settings,
            reward=self.reward,
            redact=self.redact,
            background=self.background,
        )

    # what LangChain calls -------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        decision = self._engine.decide(call.request, call.decision_id)
        try:
            result = generate(self._arm(decision), self._shown(call, decision), call.stop, run_manager, **call.kwargs)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            decision = self._instead(decision, error)
            result = generate(self._arm(decision), messages, call.stop, run_manager, **call.kwargs)
        return self._finish(decision, result)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        decision = await run_in_executor(None, self._engine.decide, call.request, call.decision_id)
        try:
            shown = self._shown(call, decision)
            result = await agenerate(self._arm(decision), shown, call.stop, run_manager, **call.kwargs)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            decision = self._instead(decision, error)
            result = await agenerate(self._arm(decision), messages, call.stop, run_manager, **call.kwargs)
        return self._finish(decision, result)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, run_manager, kwargs)
        decision = self._engine.decide(call.request, call.decision_id)
        whole = _Whole()
        try:
            for chunk in stream(
                self._arm(decision), self._shown(call, decision), call.stop, run_manager, **call.kwargs
            ):
                yield whole.take(chunk, decision)
        except Exception as error:
            if whole.chunk:
                raise
            decision = self._instead(decision, error)
            for chunk in stream(self._arm(decision), messages, call.stop, run_manager, **call.kwargs):
                yield whole.take(chunk, decision)
        self._finish_stream(decision, whole)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, run_manager, kwargs)
        decision = await run_in_executor(None, self._engine.decide, call.request, call.decision_id)
        whole = _Whole()
        try:
            shown = self._shown(call, decision)
            async for chunk in astream(self._arm(decision), shown, call.stop, run_manager, **call.kwargs):
                yield whole.take(chunk, decision)
        except Exception as error:
            if whole.chunk:
                raise
            decision = self._instead(decision, error)
            async for chunk in astream(self._arm(decision), messages, call.stop, run_manager, **call.kwargs):
                yield whole.take(chunk, decision)
        self._finish_stream(decision, whole)

    # config["configurable"] reaches a model's methods only here ------------------------------------------------

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """One answer; see `BaseChatModel.invoke`."""
        return super().invoke(input, config, stop=stop, **_explicit(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """One answer; see `BaseChatModel.ainvoke`."""
        return await super().ainvoke(input, config, stop=stop, **_explicit(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """The chunks of an answer; see `BaseChatModel.stream`."""
        yield from super().stream(input, config, stop=stop, **_explicit(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """The chunks of an answer; see `BaseChatModel.astream`."""
        async for chunk in super().astream(input, config, stop=stop, **_explicit(config, kwargs)):
            yield chunk

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools, in the form that the reference's own `bind_tools` gives them; every arm is sent the same."""
        reference = self.arms[self.reference]
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self._bind_like(reference.bind_tools(tools, **kwargs))

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | Any]:
        """Structured output by the reference's own method (``json_schema``, ``function_calling``, ``json_mode``)."""
        chain = self.arms[self.reference].with_structured_output(schema, include_raw=include_raw, **kwargs)
        if not isinstance(chain, RunnableSequence):
            raise SettingIsWrong(f"the structured output of arm {self.reference!r} cannot be given to several arms")
        first, *rest = chain.steps
        if isinstance(first, RunnableParallel):
            first = RunnableParallel({name: self._bind_like(step) for name, step in first.steps__.items()})
        else:
            first = self._bind_like(first)
        return RunnableSequence(first, *rest)

    @property
    def _llm_type(self) -> str:
        return "iccache"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What tells one router from another, so that no response cache mixes them up."""
        return {
            "arms": {name: [type(arm).__name__, _identity(arm)] for name, arm in self.arms.items()},
            "reference": self.reference,
            "scope": self.scope,
            "task": self.task,
            "parameters": self.parameters,
            "settings": self._engine.settings.model_dump(),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop, **kwargs)
        params["ls_provider"] = "iccache"
        params["ls_model_name"] = str(kwargs.get("model") or "iccache")
        return params

    # beyond LangChain -----------------------------------------------------------------------------------------

    def record_feedback(self, answer: BaseMessage | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1]: by its message, its decision id, or the run id of the call.

        Raises:
            SettingIsWrong: The score is not within [0, 1], or the message did not come through IC-Cache.
        """
        self._engine.submit_feedback(decision_id_of(answer), score, rater)

    def add_examples(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        system: str | None = None,
        scope: str | None = None,
        source: Source = "import",
        writer: str = "",
    ) -> Sequence[str]:
        """Put (query, answer) pairs into the pool, durably; returns their ids.

        `system` is the system message that the requests come with; it names the task unless the model's `task` is set.
        """
        turns: list[BaseMessage] = [SystemMessage(system)] if system else []
        request = build_request(
            normalised(turns), context=Context(scope, self.task).over(current_context()), default_scope=self.scope
        )
        self._engine.warm(request.scope)
        return self._engine.add_examples(pairs, scope=request.scope, task=request.task, source=source, writer=writer)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every answer and rating so far is stored; False if that takes longer than `timeout` seconds."""
        return self._engine.flush(timeout)

    def close(self) -> None:
        """Store what waits to be stored, and release the store."""
        self._engine.close()

    # private --------------------------------------------------------------------------------------------------

    def _call(self, messages: Sequence[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: Any) -> _Call:
        said = Context.read({key: kwargs.pop(key) for key in KEYS & kwargs.keys()})
        context = said.over(Context.read(_configured(ensure_config()))).over(current_context())
        given = kwargs.pop("iccache_decision_id", None) or (run_manager.run_id if run_manager else uuid4())
        sent = {**self.parameters, **kwargs}
        words = stop or sent.get("stop")
        sent.pop("stop", None)
        core = normalised(messages)
        request = build_request(
            core,
            context=context.over(Context(task=self.task)),
            default_scope=self.scope,
            strict=self.strict_scope,
            form=canonical_json({name: sent[name] for name in _FORM if sent.get(name)}) if _FORM & sent.keys() else "",
            fingerprint=canonical_json({**sent, "stop": words} if words else sent),
            query=self.query_fn(core) if self.query_fn else None,
        )
        return _Call(messages, words, sent, request, decision_id_of(given))

    def _arm(self, decision: Decision) -> Any:
        return self.arms[decision.arm]

    def _shown(self, call: _Call, decision: Decision) -> list[BaseMessage]:
        return insert(call.messages, decision.insertion)

    def _instead(self, decision: Decision, error: Exception) -> Decision:
        """The reference's turn after another arm failed before its first word; the reference's own failure is raised."""
        if decision.arm == self.reference:
            raise error
        self._engine.counters.add("fallback.arm_failed")
        reason = f"fallback: arm {decision.arm} failed with {type(error).__name__}"
        return Decision(
            decision.id,
            decision.request,
            Route(self.reference, reason=reason),
            fallback=True,
            created_at=decision.created_at,
        )

    def _finish(self, decision: Decision, result: ChatResult) -> ChatResult:
        for generation in result.generations:
            generation.message.response_metadata[PROVENANCE] = decision.provenance()
        first = result.generations[0]
        outcome = _outcome(first)
        if len(result.generations) > 1:  # n > 1 is asked for variety, which is not what an example should teach
            outcome = replace(outcome, finished=False)
        self._record(decision, outcome)
        return result

    def _finish_stream(self, decision: Decision, whole: _Whole) -> None:
        if whole.chunk:
            self._record(decision, _outcome(whole.chunk))

    def _record(self, decision: Decision, outcome: Outcome) -> None:
        writer = outcome.writer or model_name(self._arm(decision))
        self._engine.submit_record(decision, replace(outcome, writer=writer))

    def _bind_like(self, step: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """`self` with what another model's binding holds."""
        return self.bind(**step.kwargs) if isinstance(step, RunnableBinding) else self


class _Whole:
    """The chunks of a stream put together; the first one carries the provenance, and only that one: merging chunks
    would join equal texts end to end."""

    def __init__(self) -> None:
        self.chunk: ChatGenerationChunk | None = None

    def take(self, chunk: ChatGenerationChunk, decision: Decision) -> ChatGenerationChunk:
        if self.chunk is None:
            metadata = {**chunk.message.response_metadata, PROVENANCE: decision.provenance()}
            chunk = chunk.model_copy(
                update={"message": chunk.message.model_copy(update={"response_metadata": metadata})}
            )
            self.chunk = chunk
        else:
            self.chunk = self.chunk + chunk
        return chunk


def _outcome(generation: ChatGeneration) -> Outcome:
    """How the call ended. Streams say why they stopped beside the message."""
    message = generation.message
    metadata = {**(generation.generation_info or {}), **message.response_metadata}
    return outcome_of(cast("AIMessage", message.model_copy(update={"response_metadata": metadata})))


def _explicit(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` with what the call's own config says; what is bound or passed wins."""
    if config is None:
        return kwargs
    found = _configured(config)
    if config.get("run_id"):
        found["iccache_decision_id"] = config["run_id"]
    return {**found, **kwargs}


def _configured(config: RunnableConfig) -> dict[str, Any]:
    return {key: value for key, value in (config.get("configurable") or {}).items() if key in KEYS}


def _identity(arm: Any) -> str:
    """Names an arm without its secrets, which LangChain keeps out of identifying parameters."""
    return str(sorted(dict(arm._identifying_params).items()))  # noqa: SLF001 - what LangChain keys caches on
