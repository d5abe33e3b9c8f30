"""Calls an arm as LangChain would from inside: its own `_generate` and `_stream`, so that there is one run, one set
of callbacks and one count of tokens. Completion models (`BaseLLM`) work as well; they see the conversation as text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, get_buffer_string
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult

ArmModel: TypeAlias = BaseChatModel | BaseLLM


def model_name(arm: ArmModel) -> str:
    """What the arm calls its model; the class name if it does not say."""
    for attribute in ("model_name", "model", "model_id"):
        value = getattr(arm, attribute, None)
        if isinstance(value, str) and value:
            return value
    return type(arm).__name__


def generate(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> ChatResult:
    """One answer (or n of them) of an arm."""
    if isinstance(arm, BaseLLM):
        return _as_chat(arm._generate([get_buffer_string(messages)], stop, run_manager, **kwargs))  # noqa: SLF001 - delegation
    return arm._generate(list(messages), stop, run_manager, **kwargs)  # noqa: SLF001 - delegation


async def agenerate(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> ChatResult:
    """`generate` with the arm's own async client."""
    if isinstance(arm, BaseLLM):
        return _as_chat(await arm._agenerate([get_buffer_string(messages)], stop, run_manager, **kwargs))  # noqa: SLF001 - delegation
    return await arm._agenerate(list(messages), stop, run_manager, **kwargs)  # noqa: SLF001 - delegation


def stream(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> Iterator[ChatGenerationChunk]:
    """The chunks of an arm's answer; a single one if the arm cannot stream."""
    if isinstance(arm, BaseChatModel) and type(arm)._stream is not BaseChatModel._stream:  # noqa: SLF001 - delegation
        yield from arm._stream(list(messages), stop, run_manager, **kwargs)  # noqa: SLF001 - delegation
    else:
        yield _as_chunk(generate(arm, messages, stop, run_manager, **kwargs))


async def astream(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> AsyncIterator[ChatGenerationChunk]:
    """`stream` with the arm's own async client."""
    if isinstance(arm, BaseChatModel) and (
        type(arm)._astream is not BaseChatModel._astream  # noqa: SLF001 - delegation
        or type(arm)._stream is not BaseChatModel._stream  # noqa: SLF001 - delegation
    ):
        async for chunk in arm._astream(list(messages), stop, run_manager, **kwargs):  # noqa: SLF001 - delegation
            yield chunk
    else:
        yield _as_chunk(await agenerate(arm, messages, stop, run_manager, **kwargs))


def _as_chat(result: LLMResult) -> ChatResult:
    """The completions of one prompt as chat generations."""
    output = result.llm_output or {}
    usage = output.get("token_usage") or {}
    counts = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "total_tokens": "total_tokens"}
    tokens = {ours: int(usage[theirs]) for ours, theirs in counts.items() if theirs in usage}
    generations = []
    for generation in result.generations[0]:
        metadata = {**(generation.generation_info or {})}
        if output.get("model_name"):
            metadata["model_name"] = output["model_name"]
        message = AIMessage(
            generation.text, response_metadata=metadata, usage_metadata=tokens if len(tokens) == len(counts) else None
        )
        generations.append(ChatGeneration(message=message, generation_info=generation.generation_info))
    return ChatResult(generations=generations, llm_output=result.llm_output)


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    generation = result.generations[0]
    message = generation.message
    fields = message.model_dump(exclude={"type"})
    return ChatGenerationChunk(message=AIMessageChunk(**fields), generation_info=generation.generation_info)
