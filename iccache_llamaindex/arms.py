"""Calls an arm by its own public methods, which send LlamaIndex's events and count tokens: the router sends none of its
own, so that there is one pair of events a call, and it tells the model and the messages that were really sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Final

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

from iccache_llamaindex.messages import as_completion, insert
from shared_core.adapters import Context
from shared_core.adapters.factory import check_arms
from shared_core.errors import ConfigurationError
from shared_core.values import Insertion

# What LlamaIndex applies before it calls a model: of several models behind one, it sees only the one in front.
_SHARED_FIELDS: Final = ("system_prompt", "output_parser", "query_wrapper_prompt", "pydantic_program_mode")


@dataclass(frozen=True, slots=True)
class Call:
    """One call as LlamaIndex made it.

    Attributes:
        messages: The conversation as the caller gave it.
        kwargs: What is sent beside it.
        context: Whose call it is.
        prompt: The text of a completion; None for a chat.
        formatted: True if the caller has put `prompt` into a model's own format. Then no examples are added.
    """

    messages: Sequence[ChatMessage]
    kwargs: Mapping[str, Any]
    context: Context
    prompt: str | None = None
    formatted: bool = False

    @property
    def bypass(self) -> str:
        """Why it is not routed; empty if it is."""
        return "the call names its own model" if "model" in self.kwargs else ""


@dataclass(frozen=True, slots=True)
class ArmCall:
    """The call as it is sent to one arm, with the examples chosen for it."""

    arm: LLM
    call: Call
    insertion: Insertion

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation with the chosen examples in place."""
        return insert(self.call.messages, self.insertion)

    @property
    def completion(self) -> dict[str, Any] | None:
        """The arguments of the arm's `complete`; None if the examples take turns, and so a chat."""
        if self.insertion.turns:
            return None
        prompt = self.call.prompt if self.insertion.rewrite is None else self.insertion.rewrite
        return {"prompt": prompt, "formatted": self.call.formatted, **self.call.kwargs}


def check(arms: Mapping[str, object], reference: str) -> None:
    """Refuse what cannot be routed.

    Raises:
        ConfigurationError: Fewer than two arms, an unknown reference, or an arm that is no LLM of LlamaIndex's.
    """
    check_arms(list(arms), reference)
    for name, arm in arms.items():
        if not isinstance(arm, LLM):
            raise ConfigurationError(
                f"arm {name!r} is a {type(arm).__name__}, no LLM of LlamaIndex's; OpenAILike takes any server that speaks "
                "OpenAI's protocol, LangChainLLM (llama-index-llms-langchain) any LangChain model"
            )


def shared_fields(arms: Mapping[str, LLM], given: Mapping[str, Any]) -> dict[str, Any]:
    """What LlamaIndex is to apply before the call: as given to the router, else as all arms have it.

    Raises:
        ConfigurationError: The arms differ, so that it would hold for some of them only.
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
                f"the arms differ in {attribute}=, which LlamaIndex applies before it is known which arm answers; give "
                f"ICCacheLLM the {attribute}= for all of them"
            )
    return {attribute: value for attribute, value in found.items() if value is not None}


def copies(arms: Mapping[str, LLM], manager: CallbackManager) -> dict[str, LLM]:
    """Copies of the arms that may be given the router's callback manager; clients and weights are shared.

    Raises:
        ConfigurationError: An arm has callback handlers of its own, which would no longer be called.
    """
    for name, arm in arms.items():
        lost = [handler for handler in arm.callback_manager.handlers if handler not in manager.handlers]
        if lost:
            raise ConfigurationError(
                f"arm {name!r} has callback handlers of its own ({type(lost[0]).__name__}), which would never be called; "
                "give them to ICCacheLLM(callback_manager=…): they are told which model answered"
            )
    return {name: arm.model_copy() for name, arm in arms.items()}


def shared_metadata(arms: Sequence[LLM]) -> LLMMetadata:
    """What a caller may rely on whichever arm answers.

    The context is the smallest, and the room to be kept for an answer the largest that any arm asks for. Every arm
    takes messages: a completion model writes them out as one text itself.
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
    """What the arm calls its model; the class name if it does not say."""
    name = arm.metadata.model_name
    return name if name and name != "unknown" else type(arm).__name__


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
    return _as_completions(stream_chat(sent)) if completion is None else sent.arm.stream_complete(**completion)


async def astream_complete(sent: ArmCall) -> AsyncGenerator[CompletionResponse, None]:
    """`stream_complete` with the arm's own async client."""
    completion = sent.completion
    return (
        _as_acompletions(await astream_chat(sent))
        if completion is None
        else await sent.arm.astream_complete(**completion)
    )


def _as_completions(pieces: Generator[ChatResponse, None, None]) -> Generator[CompletionResponse, None, None]:
    with closing(pieces):
        yield from map(as_completion, pieces)


async def _as_acompletions(pieces: AsyncGenerator[ChatResponse, None]) -> AsyncGenerator[CompletionResponse, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield as_completion(piece)
