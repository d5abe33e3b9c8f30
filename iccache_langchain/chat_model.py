"""`ICCacheChatModel`: routes each call to one of several chat models, and shows past answers as examples.

It calls the chosen model's `_generate`, `_agenerate`, `_stream` or `_astream`. So streaming, tools and structured
output work as with a single model, and a chain sees one run and one token count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Unpack, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr
from typing_extensions import override

from iccache_langchain import arms as arm_calls
from iccache_langchain.answers import ChatAnswers
from iccache_langchain.arms import ArmModel
from iccache_langchain.binding import rebound
from iccache_langchain.calls import BY_CONFIG, FREE, OWN_KEYS, QueryFunction, call_context
from iccache_langchain.chat_call import ChatCall
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import normalised
from iccache_langchain.options import CLIENT, ChatModelOptions, without_client_options
from iccache_langchain.runnable_config import PinnedChatModel
from shared_core.adapters.context import RUN
from shared_core.adapters.factory import routing_engine
from shared_core.adapters.lifecycle import ExampleOwner
from shared_core.adapters.options import RoutingOptions, read_options
from shared_core.adapters.requests import Requests
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.values import Request

_SCOPE_ADVICE: Final = (
    f"pass iccache_scope=… with the call, bind it with .bind(iccache_scope=…), {BY_CONFIG}, or use "
    "iccache_context(scope=…) if the call is not streamed"
)


class ICCacheChatModel(ExampleOwner, Rateable, PinnedChatModel):
    """A chat model that routes each call to the cheapest arm that is good enough, adding past answers as examples.

    ```python
    llm = ICCacheChatModel(
        arms={"small": ChatOpenAI(...), "large": ChatOpenAI(...)},
        reference="large", costs={"small": 0.1, "large": 1.0},
        store="sqlite:///iccache.db", reward=my_score,
    )
    ```

    Every answer holds its decision in ``response_metadata["iccache"]``. Set options for one call, in this order of
    precedence, by ``bind(iccache_scope=…, iccache_task=…, iccache_no_store=True)``, by the same names in
    ``config["configurable"]``, or by `iccache_context`. A call with its own ``model=`` is not routed: the reference
    answers it, and nothing is learned from it.

    Args:
        arms: Candidate models by name: any LangChain chat model, or completion model.
        reference: The arm whose answers become examples and whose quality is the yardstick. It also answers when
            IC-Cache cannot decide, or when another arm fails before its first token. It gets no examples.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded; later turns may then
            become examples. If it fails, there are no examples. It runs before the decision, without a time limit.
        options: See `ChatModelOptions`. With `strict_scope`, a streamed call needs its scope as an argument or in its
            config, because a chain's stream runs outside the `iccache_context` of its caller.
    """

    arms: dict[str, ArmModel] = Field(exclude=True, repr=False)  # they hold keys
    reference: str
    engine: Engine = Field(cast("Engine", None), exclude=True, repr=False)  # built once the other fields are checked
    scope: str | None = None
    task: str | None = None
    query_fn: QueryFunction | None = Field(None, exclude=True)
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    streaming: bool = False

    _owns_engine: bool = PrivateAttr(default=True)

    @with_options(ChatModelOptions, BaseChatModel.model_fields, CLIENT)
    def __init__(
        self,
        *,
        arms: Mapping[str, ArmModel],
        reference: str,
        query_fn: QueryFunction | None = None,
        **options: Unpack[ChatModelOptions],
    ) -> None:
        given = read_options(without_client_options(options), RoutingOptions)
        arm_calls.check(arms, reference)
        super().__init__(
            arms=dict(arms),
            reference=reference,
            scope=given.scope,
            strict_scope=given.strict_scope,
            task=given.task,
            query_fn=query_fn,
            **given.base,  # only the given fields: LangChain checks whether `streaming` was set
        )
        self.engine = routing_engine(list(arms), reference, given)
        self._owns_engine = given.owns_engine

    # what LangChain calls -------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        return self._routed(call).run(call.generate)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        routed = await self._arouted(call)
        return await routed.arun(call.agenerate)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, run_manager, kwargs, streamed=True)
        yield from self._routed(call).stream(call.stream)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, run_manager, kwargs, streamed=True)
        routed = await self._arouted(call)
        async with aclosing(await routed.astream(call.astream)) as chunks:  # a reader that stops ends the arm's request
            async for chunk in chunks:
                yield chunk

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools with the reference's own `bind_tools`; every arm gets the result."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        reference = self._chat_reference()
        return rebound(reference.bind_tools(tools, **kwargs), reference, self)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | Any]:
        """Structured output with the reference's method (``json_schema``, ``function_calling``, ``json_mode``)."""
        reference = self._chat_reference()
        return rebound(reference.with_structured_output(schema, include_raw=include_raw, **kwargs), reference, self)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of the reference's tokenizer, because every prompt must fit the reference."""
        return self.arms[self.reference].get_token_ids(text)

    @override
    def get_num_tokens(self, text: str) -> int:
        return self.arms[self.reference].get_num_tokens(text)

    @override
    def get_num_tokens_from_messages(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> int:
        return self.arms[self.reference].get_num_tokens_from_messages(messages, *args, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "iccache"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What distinguishes this router from others in a response cache's key."""
        return {
            "arms": {name: dict(arm_calls.identity(arm)) for name, arm in self.arms.items()},
            "reference": self.reference,
            "scope": self.scope,
            "task": self.task,
            "defaults": self._defaults(),
            "settings": self.engine.settings.model_dump(),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop, **kwargs)
        params["ls_provider"] = "iccache"
        params["ls_model_name"] = str(kwargs.get("model") or "iccache")
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        return arm_calls.shared_profile(list(self.arms.values()))

    # private --------------------------------------------------------------------------------------------------

    def _call(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None,
        kwargs: Mapping[str, Any],
        *,
        streamed: bool = False,
    ) -> ChatCall:
        """Read the arguments of a private method. Raises only `ConfigurationError` (invalid scope or task)."""
        context = call_context(kwargs, context_counts=not (streamed and self.strict_scope))
        sent = self._defaults() | {name: value for name, value in kwargs.items() if name not in OWN_KEYS}
        words = stop or sent.pop("stop", None)
        sent.pop("stop", None)
        return ChatCall(self.arms, messages, words, sent, context, run, run.run_id if run else kwargs.get(RUN))

    def _routed(self, call: ChatCall) -> RoutedCall[ChatResult, ChatGenerationChunk]:
        routing = Routing(self.engine, self.reference)
        decision = routing.decide(self._reading(call), call.identity, bypass=call.bypass)
        return RoutedCall(routing, decision, ChatAnswers(self.arms, call.kwargs))

    async def _arouted(self, call: ChatCall) -> RoutedCall[ChatResult, ChatGenerationChunk]:
        routing, may_block = Routing(self.engine, self.reference), self.query_fn is not None
        decision = await routing.adecide(self._reading(call), call.identity, bypass=call.bypass, may_block=may_block)
        return RoutedCall(routing, decision, ChatAnswers(self.arms, call.kwargs))

    def _reading(self, call: ChatCall) -> Callable[[], Request]:
        """Reads the call into a `Request`, which may fail."""
        return partial(self._requests.request, call.messages, call.context, call.kwargs, call.stop)

    @property
    def _requests(self) -> Requests[BaseMessage]:
        """Built for each call, because the fields may change at any time."""
        return Requests(
            normalised,
            self.engine.failures,
            self.scope,
            self.strict_scope,
            self.task,
            self.query_fn,
            free=FREE,
            scope_advice=_SCOPE_ADVICE,
        )

    def _defaults(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens, "stop": self.stop or None}
        return {name: value for name, value in own.items() if value is not None}

    def _chat_reference(self) -> BaseChatModel:
        reference = self.arms[self.reference]
        if not isinstance(reference, BaseChatModel):
            raise NotImplementedError(
                f"the reference {self.reference!r} is a completion model, which does not support tools; "
                "make a chat model the reference"
            )
        return reference
