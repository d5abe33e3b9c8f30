"""Calls an arm by its public methods, which send LlamaIndex's events and count tokens. The router sends no events, so
each call has one pair of events, with the model and the messages that were really used."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM

from iccache_llamaindex.messages import as_acompletions, as_completion, as_completions, insert
from shared_core.adapters.context import Context
from shared_core.adapters.factory import check_arms
from shared_core.adapters.parameters import bypass_of
from shared_core.errors import ConfigurationError, kind_of
from shared_core.values import Decision, Insertion

T = TypeVar("T")

# LlamaIndex applies these before it calls a model. It sees only the router, so the router needs the arms' values.
_SHARED_FIELDS: Final = ("system_prompt", "output_parser", "query_wrapper_prompt", "pydantic_program_mode")


@dataclass(frozen=True, slots=True)
class LLMCall:
    """One call as LlamaIndex made it.

    Attributes:
        messages: The conversation as the caller gave it.
        kwargs: The call's other arguments.
        context: Scope, task and whether the answer may be stored.
        prompt: The text of a completion; None for a chat.
        formatted: True if `prompt` is already in a model's own format. Then no examples are added.
    """

    messages: Sequence[ChatMessage]
    kwargs: Mapping[str, Any]
    context: Context
    prompt: str | None = None
    formatted: bool = False

    @property
    def bypass(self) -> str:
        """Why the call is not routed; empty if it is."""
        return bypass_of(self.kwargs)


@dataclass(frozen=True, slots=True)
class ArmCall:
    """The call as it is sent to one arm, with the examples chosen for it."""

    arm: LLM
    call: LLMCall
    insertion: Insertion

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation with the chosen examples in place."""
        return insert(self.call.messages, self.insertion)

    @property
    def completion(self) -> dict[str, Any] | None:
        """The arguments of the arm's `complete`; None if the examples are chat turns, which need `chat`."""
        if self.insertion.turns:
            return None
        prompt = self.call.prompt if self.insertion.rewrite is None else self.insertion.rewrite
        return {"prompt": prompt, "formatted": self.call.formatted, **self.call.kwargs}


def check(arms: Mapping[str, object], reference: str) -> None:
    """Refuse arms that cannot be routed.

    Raises:
        ConfigurationError: Fewer than two arms, an unknown reference, or an arm that is not a LlamaIndex LLM.
    """
    check_arms(arms, reference)
    for name, arm in arms.items():
        if not isinstance(arm, LLM):
            raise ConfigurationError(
                f"arm {name!r} is {kind_of(arm)}, not a LlamaIndex LLM; use OpenAILike for an "
                "OpenAI-compatible server, or LangChainLLM (llama-index-llms-langchain) for a LangChain model"
            )


def shared_fields(arms: Mapping[str, LLM], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that LlamaIndex applies before the call: the router's own, else those that all arms share.

    Raises:
        ConfigurationError: The arms have different values, and the router has none.
    """
    found = {}
    for attribute in _SHARED_FIELDS:
        values = [getattr(arm, attribute, None) for arm in arms.values()]
        if attribute in given:
            found[attribute] = given[attribute]
        elif all(value == values[0] for value in values):
            found[attribute] = values[0]
        else:
            raise ConfigurationError(
                f"the arms differ in {attribute}, which LlamaIndex applies before the router chooses an arm; "
                f"set one value for all arms: ICCacheLLM({attribute}=…)"
            )
    return {attribute: value for attribute, value in found.items() if value is not None}


def copies(arms: Mapping[str, LLM], manager: CallbackManager) -> dict[str, LLM]:
    """Copies of the arms, which can take the router's callback manager; clients and weights are shared.

    Raises:
        ConfigurationError: An arm has callback handlers that the router's manager lacks.
    """
    for name, arm in arms.items():
        lost = [handler for handler in arm.callback_manager.handlers if handler not in manager.handlers]
        if lost:
            raise ConfigurationError(
                f"arm {name!r} has its own {type(lost[0]).__name__}, which the router would never call; "
                "pass it to the router: ICCacheLLM(callback_manager=CallbackManager([…]))"
            )
    return {name: arm.model_copy() for name, arm in arms.items()}


def shared_metadata(arms: Sequence[LLM]) -> LLMMetadata:
    """The metadata that holds for every arm.

    The context window is the smallest of the arms', the room reserved for an answer the largest. Every arm takes chat
    messages, because a completion model turns them into one prompt itself.
    """
    each = [arm.metadata for arm in arms]
    roles = {one.system_role for one in each}
    return LLMMetadata(
        context_window=min(one.context_window for one in each),
        num_output=max(one.num_output for one in each),
        is_chat_model=True,
        is_function_calling_model=all(
            one.is_function_calling_model and isinstance(arm, FunctionCallingLLM)
            for arm, one in zip(arms, each, strict=True)
        ),
        model_name="iccache",
        system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
    )


def model_name(arm: LLM) -> str:
    """The name of the arm's model; the class name if the arm names none."""
    name = arm.metadata.model_name
    return name if name and name != "unknown" else type(arm).__name__


def managed(arms: Mapping[str, LLM], manager: CallbackManager, name: str) -> LLM:
    """An arm, with the router's callback manager, which LlamaIndex may replace between two calls."""
    arm = arms[name]
    if arm.callback_manager is not manager:
        arm.callback_manager = manager
    return arm


def asked(ask: Callable[[ArmCall], T], arm: Callable[[str], LLM], call: LLMCall, decision: Decision) -> T:
    """What `ask` gets from the arm of a decision, with its examples."""
    return ask(ArmCall(arm(decision.arm), call, decision.insertion))


def chat(sent: ArmCall) -> ChatResponse:
    """One answer."""
    return sent.arm.chat(sent.messages, **sent.call.kwargs)


async def achat(sent: ArmCall) -> ChatResponse:
    """`chat` with the arm's own async client."""
    return await sent.arm.achat(sent.messages, **sent.call.kwargs)


def stream_chat(sent: ArmCall) -> Generator[ChatResponse, None, None]:
    """The pieces of an answer; each holds the answer so far."""
    return sent.arm.stream_chat(sent.messages, **sent.call.kwargs)


async def astream_chat(sent: ArmCall) -> AsyncGenerator[ChatResponse, None]:
    """`stream_chat` with the arm's own async client."""
    return await sent.arm.astream_chat(sent.messages, **sent.call.kwargs)


def complete(sent: ArmCall) -> CompletionResponse:
    """One completion; a chat with the arm where examples take turns."""
    completion = sent.completion
    return as_completion(chat(sent)) if completion is None else sent.arm.complete(**completion)


async def acomplete(sent: ArmCall) -> CompletionResponse:
    """`complete` with the arm's own async client."""
    completion = sent.completion
    return as_completion(await achat(sent)) if completion is None else await sent.arm.acomplete(**completion)


def stream_complete(sent: ArmCall) -> Generator[CompletionResponse, None, None]:
    """The pieces of a completion; each holds the text so far."""
    completion = sent.completion
    return as_completions(stream_chat(sent)) if completion is None else sent.arm.stream_complete(**completion)


async def astream_complete(sent: ArmCall) -> AsyncGenerator[CompletionResponse, None]:
    """`stream_complete` with the arm's own async client."""
    completion = sent.completion
    return (
        as_acompletions(await astream_chat(sent))
        if completion is None
        else await sent.arm.astream_complete(**completion)
    )
