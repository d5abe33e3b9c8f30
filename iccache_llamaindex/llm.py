"""`ICCacheLLM`: routes each call to one of several LLMs, and shows past answers as examples.

It calls the public methods of the chosen LLM. So streaming, tools and structured output work as with a single model,
and a query engine or an agent sees one call and one token count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, Unpack, cast
from uuid import UUID

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import BaseOutputParser, PydanticProgramMode
from pydantic import Field, PrivateAttr
from typing_extensions import override

from iccache_llamaindex import arms as arm_calls
from iccache_llamaindex import question
from iccache_llamaindex.answers import LLMAnswers
from iccache_llamaindex.arms import ArmCall, LLMCall
from iccache_llamaindex.messages import R, Response, arm_of, decision_id_of, normalised
from shared_core.adapters import parameters
from shared_core.adapters.context import KEYS, Context, current_context
from shared_core.adapters.factory import routing_engine
from shared_core.adapters.lifecycle import ExampleOwner
from shared_core.adapters.options import RoutingOptions, read_options
from shared_core.adapters.requests import Requests
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, kind_of
from shared_core.values import Decision, Request

QueryFunction: TypeAlias = Callable[[Sequence[ChatMessage]], str]
T = TypeVar("T")

# LlamaIndex's own parameters that leave the answer free text: transport and time limits.
FREE: Final = parameters.FREE | {"stream", "stream_options", "timeout", "use_chat_completions"}
# LlamaIndex fields that have no effect on the router, and where to set them.
_ARM_FIELDS: Final = {
    "rate_limiter": "each arm limits its own rate; set it on the arms",
    "messages_to_prompt": "each arm turns messages into a prompt itself; set it on the arms",
    "completion_to_prompt": "each arm formats prompts for its own model; set it on the arms",
}


class LLMOptions(RoutingOptions, total=False):
    """`RoutingOptions`, and the fields of LlamaIndex's `LLM` that apply to every arm.

    Attributes:
        system_prompt: Precedes the messages of `predict` and similar methods.
        output_parser: Parses the answers of `predict`.
        query_wrapper_prompt: Wraps the query of `predict`.
        pydantic_program_mode: How structured answers are requested.
    """

    system_prompt: str | None
    output_parser: BaseOutputParser | None
    query_wrapper_prompt: BasePromptTemplate | None
    pydantic_program_mode: PydanticProgramMode


class ICCacheLLM(ExampleOwner, FunctionCallingLLM):
    """An LLM that routes each call to the cheapest arm that is good enough, adding past answers as examples.

    ```python
    llm = ICCacheLLM(
        arms={"small": OpenAILike(...), "large": OpenAILike(...)},
        reference="large", costs={"small": 0.1, "large": 1.0},
        store="sqlite:///iccache.db", reward=my_score,
    )
    Settings.llm = llm
    ```

    Every answer, and every piece of a streamed one, holds its decision in ``additional_kwargs["iccache"]``; event
    handlers get it as `ICCacheRouteEvent`. Set options for one call with
    ``chat(messages, iccache_scope=…, iccache_task=…, iccache_no_store=True)``; where LlamaIndex makes the calls, use
    `bind` or `iccache_context`. A call with its own ``model=`` is not routed: the reference answers it, and nothing is
    learned from it.

    Args:
        arms: Candidate models by name: any LlamaIndex LLM. The router copies them to set its callback manager on them;
            the copies share clients and weights.
        reference: The arm whose answers become examples and whose quality is the yardstick. It also answers when
            IC-Cache cannot decide, or when another arm fails before its first token. It gets no examples.
        query_fn: Condenses a conversation (LlamaIndex messages) into the text that is embedded; later turns may then
            become examples. If it fails, there are no examples. It runs before the decision, without a time limit. The
            default is the question of the calling query engine, else the last user text.
        callback_manager: Observes every call of every arm; by default LlamaIndex's own.
        options: See `RoutingOptions`, and fields of LlamaIndex's `LLM` (``system_prompt=``, ``output_parser=`` …). With
            `strict_scope`, a streamed call needs its scope as an argument or by `bind`: a stream may run outside its
            caller's `iccache_context`. Set a `task` if the system message changes with every request, as it does in
            context chat engines.
    """

    arms: dict[str, LLM] = Field(exclude=True, repr=False)  # they hold keys
    reference: str
    engine: Engine = Field(cast("Engine", None), exclude=True, repr=False)  # built once the other fields are checked
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    query_fn: QueryFunction | None = Field(None, exclude=True)

    _owns_engine: bool = PrivateAttr(default=True)
    _bound: Context = PrivateAttr(default=Context())

    @with_options(LLMOptions, LLM.model_fields, _ARM_FIELDS)
    def __init__(
        self,
        *,
        arms: Mapping[str, LLM],
        reference: str,
        query_fn: QueryFunction | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[LLMOptions],
    ) -> None:
        given = read_options(options, RoutingOptions)
        _refuse_arm_fields(given.base)
        if not isinstance(callback_manager, CallbackManager | None):
            raise ConfigurationError(f"callback_manager is {kind_of(callback_manager)}; pass CallbackManager([…])")
        arm_calls.check(arms, reference)
        manager = callback_manager or CallbackManager([])
        copies = arm_calls.copies(arms, manager)
        shared = arm_calls.shared_fields(arms, given.base)
        super().__init__(
            arms=copies,
            reference=reference,
            scope=given.scope,
            strict_scope=given.strict_scope,
            task=given.task,
            query_fn=query_fn,
            callback_manager=manager,
            **shared,
        )
        self.engine = routing_engine(list(arms), reference, given)
        self._owns_engine = given.owns_engine
        question.listen()

    # what LlamaIndex calls ------------------------------------------------------------------------------------

    @property
    def metadata(self) -> LLMMetadata:
        """The metadata that holds for every arm."""
        return arm_calls.shared_metadata(list(self.arms.values()))

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialised forms."""
        return "ICCacheLLM"

    @override
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        call = self._call(messages, kwargs)
        return self._routed(call, self._chats).run(self._asking(call, arm_calls.chat))

    @override
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        call = self._call(messages, kwargs)
        routed = await self._arouted(call, self._chats)
        return await routed.arun(self._asking(call, arm_calls.achat))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream the pieces of an answer. The scope is read when `stream_chat` is called."""
        call = self._call(messages, kwargs, streamed=True)
        return self._routed(call, self._chats).stream(self._asking(call, arm_calls.stream_chat))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Stream the pieces of an answer. The scope is read when `astream_chat` is called."""
        call = self._call(messages, kwargs, streamed=True)
        routed = await self._arouted(call, self._chats)
        return await routed.astream(self._asking(call, arm_calls.astream_chat))

    @override
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        call = self._completion(prompt, kwargs, formatted=formatted)
        return self._routed(call, self._completions).run(self._asking(call, arm_calls.complete))

    @override
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        call = self._completion(prompt, kwargs, formatted=formatted)
        routed = await self._arouted(call, self._completions)
        return await routed.arun(self._asking(call, arm_calls.acomplete))

    @override
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        call = self._completion(prompt, kwargs, formatted=formatted, streamed=True)
        routed = self._routed(call, self._completions)
        return routed.stream(self._asking(call, arm_calls.stream_complete))

    @override
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        call = self._completion(prompt, kwargs, formatted=formatted, streamed=True)
        routed = await self._arouted(call, self._completions)
        return await routed.astream(self._asking(call, arm_calls.astream_complete))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of an answer, parsed by the arm that gave it."""
        arm = self.arms.get(arm_of(response) or "", self.arms[self.reference])
        reads = arm if isinstance(arm, FunctionCallingLLM) else self._tool_reference()
        return reads.get_tool_calls_from_response(response, error_on_no_tool_call=error_on_no_tool_call, **kwargs)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The tools in the reference's format, which every arm gets."""
        return self._tool_reference()._prepare_chat_with_tools_compat(  # noqa: SLF001 - delegation
            tools,
            user_msg=user_msg,
            chat_history=chat_history,
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
            **kwargs,
        )

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], allow_parallel_tool_calls: bool = False, **kwargs: Any
    ) -> ChatResponse:
        return self._tool_reference()._validate_chat_with_tools_response(  # noqa: SLF001 - delegation
            response, tools, allow_parallel_tool_calls=allow_parallel_tool_calls, **kwargs
        )

    # beyond LlamaIndex ----------------------------------------------------------------------------------------

    def bind(self, **values: object) -> ICCacheLLM:
        """A handle on this LLM with a fixed ``iccache_scope=…``, ``iccache_task=…`` or ``iccache_no_store=True``, for
        calls that LlamaIndex makes. Arms, engine and store are shared.

        ```python
        index.as_query_engine(llm=llm.bind(iccache_scope="acme"))
        ```

        Raises:
            ConfigurationError: Another name is given, or a value is None.
        """
        if unknown := sorted(values.keys() - KEYS):
            raise ConfigurationError(f"bind takes {', '.join(sorted(KEYS))}; got {', '.join(unknown)}")
        bound = copy.copy(self)
        bound._bound = Context.read(values).over(self._bound)  # noqa: SLF001 - a copy of ours
        return bound

    def record_feedback(self, answer: Response | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1]: by its response, or by its decision id. Does not wait.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the answer is neither a response nor an id.
            NotFromICCache: The response did not come through IC-Cache.
        """
        self.engine.submit_feedback(decision_id_of(answer), score, rater)

    # copies and serialised forms ------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> ICCacheLLM:
        """Rebuild from `to_dict`, and from what it never writes: ``from_dict(data, arms={…}, costs={…}, …)``.

        Raises:
            ConfigurationError: The arms are missing.
        """
        if "arms" not in kwargs:
            raise ConfigurationError(
                "arms are not serialised, because they hold API keys; pass arms, costs, store and reward again: "
                "ICCacheLLM.from_dict(data, arms={…}, costs={…}, store=…)"
            )
        return super().from_dict(data, **kwargs)

    # private --------------------------------------------------------------------------------------------------

    @property
    def _chats(self) -> LLMAnswers[ChatResponse]:
        return LLMAnswers(self._arm)

    @property
    def _completions(self) -> LLMAnswers[CompletionResponse]:
        return LLMAnswers(self._arm)

    def _completion(
        self, prompt: str, kwargs: Mapping[str, Any], *, formatted: bool, streamed: bool = False
    ) -> LLMCall:
        """The call of a completion: one user turn."""
        call = self._call([ChatMessage(role=MessageRole.USER, content=prompt)], kwargs, streamed=streamed)
        return replace(call, prompt=prompt, formatted=formatted)

    def _call(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], *, streamed: bool = False) -> LLMCall:
        """Read a call. Raises only `ConfigurationError` (invalid scope or task)."""
        context = Context.read(kwargs).over(self._bound)
        if not (streamed and self.strict_scope):
            context = context.over(current_context())
        return LLMCall(messages, {name: value for name, value in kwargs.items() if name not in KEYS}, context)

    def _routed(self, call: LLMCall, answers: LLMAnswers[R]) -> RoutedCall[R, R]:
        routing = Routing(self.engine, self.reference)
        return RoutedCall(routing, routing.decide(self._reading(call), bypass=call.bypass), answers)

    async def _arouted(self, call: LLMCall, answers: LLMAnswers[R]) -> RoutedCall[R, R]:
        routing, may_block = Routing(self.engine, self.reference), self.query_fn is not None
        decision = await routing.adecide(self._reading(call), bypass=call.bypass, may_block=may_block)
        return RoutedCall(routing, decision, answers)

    def _asking(self, call: LLMCall, ask: Callable[[ArmCall], T]) -> Callable[[Decision], T]:
        """A function that calls `ask` with the arm and the examples of a decision."""
        return partial(arm_calls.asked, ask, self._arm, call)

    def _reading(self, call: LLMCall) -> Callable[[], Request]:
        """Reads the call into a `Request`, which may fail."""
        query = "" if call.formatted else None  # no examples in a prompt that is formatted already
        return partial(self._requests.request, call.messages, call.context, call.kwargs, query=query)

    @property
    def _requests(self) -> Requests[ChatMessage]:
        """Built for each call, because the fields may change at any time."""
        return Requests(
            normalised,
            self.engine.failures,
            self.scope,
            self.strict_scope,
            self.task,
            self.query_fn,
            question.question_in,
            FREE,
            "pass iccache_scope=… with the call, bind it with .bind(iccache_scope=…), or use iccache_context(scope=…) if "
            "the call is not streamed",
        )

    @property
    def _bound_context(self) -> Context:
        return self._bound

    @property
    def _arm(self) -> Callable[[str], LLM]:
        """Finds an arm for the present call, with the router's present callback manager."""
        return partial(arm_calls.managed, self.arms, self.callback_manager)

    def _tool_reference(self) -> FunctionCallingLLM:
        reference = self.arms[self.reference]
        if not isinstance(reference, FunctionCallingLLM):
            raise NotImplementedError(
                f"the reference {self.reference!r} ({type(reference).__name__}) does not support tools; make a "
                "FunctionCallingLLM the reference"
            )
        return reference


def _refuse_arm_fields(fields: Mapping[str, Any]) -> None:
    for name, remedy in _ARM_FIELDS.items():
        if fields.get(name) is not None:
            raise ConfigurationError(f"{name}= has no effect on ICCacheLLM: {remedy}")
