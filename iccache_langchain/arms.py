"""Calls an arm's private `_generate` and `_stream`, as LangChain itself does. So each call has one run, one set of
callbacks and one token count. Completion models (`BaseLLM`) work, too; they get the conversation as text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, get_buffer_string
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableWithFallbacks
from langchain_core.runnables.retry import RunnableRetry

from iccache_langchain.messages import insert
from shared_core.adapters.factory import check_arms
from shared_core.errors import ConfigurationError, kind_of
from shared_core.inference.naming import named_model
from shared_core.values import Insertion

ArmModel: TypeAlias = BaseChatModel | BaseLLM

_SKIPPED: Final = ("cache", "rate_limiter", "callbacks")  # LangChain applies the router's, never an arm's
_NOT_TEXT: Final = ("tools", "functions", "response_format")


def check(arms: Mapping[str, object], reference: str) -> None:
    """Refuse arms that cannot be routed.

    Raises:
        ConfigurationError: Fewer than two arms, an unknown reference, an arm that is not a model, or one with its own
            cache, rate limiter or callbacks, which LangChain would ignore.
    """
    check_arms(arms, reference)
    for name, arm in arms.items():
        if not isinstance(arm, BaseChatModel | BaseLLM):
            raise ConfigurationError(
                f"arm {name!r} is {kind_of(arm)}; pass a LangChain chat or completion model ({_remedy(arm)})"
            )
        for attribute in _SKIPPED:
            if getattr(arm, attribute, None):
                raise ConfigurationError(
                    f"arm {name!r} has its own {attribute}, which LangChain would never use; build the arm with "
                    f"{attribute}=None, and pass {attribute}= to ICCacheChatModel"
                )


def _remedy(arm: object) -> str:
    """What to pass instead of something that is not a model."""
    if isinstance(arm, RunnableRetry):
        return "without .with_retry(): set max_retries on the model; if it still fails, the reference answers"
    if isinstance(arm, RunnableWithFallbacks):
        return "without .with_fallbacks(): if an arm fails, the reference answers"
    if isinstance(arm, RunnableBinding):
        return "set parameters on the model instead of binding them"
    if isinstance(arm, Runnable):
        return "the model itself, without prompt and parser around it"
    return "e.g. ChatOpenAI(…)"


def model_name(arm: ArmModel) -> str:
    """The name of the arm's model; the class name if the arm names none."""
    return named_model(lambda key: getattr(arm, key, None)) or type(arm).__name__


def identity(arm: ArmModel) -> Mapping[str, object]:
    """The arm's class and identifying parameters, which hold no secrets."""
    return {**arm._identifying_params, "_class": type(arm).__name__}  # noqa: SLF001 - delegation


def shared_profile(arms: Sequence[ArmModel]) -> ModelProfile | None:
    """The profile that holds for all arms: the smallest limits and the common abilities; None if one arm has none."""
    profiles = [dict(getattr(arm, "profile", None) or {}) for arm in arms]
    names = set.intersection(*(set(profile) for profile in profiles))
    shared = {name: _least([profile[name] for profile in profiles]) for name in names}
    known = {name: value for name, value in shared.items() if value is not None}
    return cast("ModelProfile", known) if known else None


def can_stream(arm: ArmModel, kwargs: Mapping[str, Any]) -> bool:
    """True if the arm streams its answer to this call, and so sends a finish reason at the end."""
    if not isinstance(arm, BaseChatModel) or arm.disable_streaming is True:
        return False
    if arm.disable_streaming == "tool_calling" and kwargs.get("tools"):
        return False
    made = type(arm)
    return made._stream is not BaseChatModel._stream or made._astream is not BaseChatModel._astream  # noqa: SLF001 - delegation


def generate(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    insertion: Insertion,
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> ChatResult:
    """The arm's answer (or n answers) to the conversation with the examples inserted."""
    sent = insert(messages, insertion)
    if isinstance(arm, BaseLLM):
        return _as_chat(arm._generate([_as_text(sent, kwargs)], stop, run_manager, **kwargs))  # noqa: SLF001 - delegation
    return arm._generate(sent, stop, run_manager, **kwargs)  # noqa: SLF001 - delegation


async def agenerate(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    insertion: Insertion,
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> ChatResult:
    """`generate` with the arm's own async client."""
    sent = insert(messages, insertion)
    if isinstance(arm, BaseLLM):
        return _as_chat(await arm._agenerate([_as_text(sent, kwargs)], stop, run_manager, **kwargs))  # noqa: SLF001 - delegation
    return await arm._agenerate(sent, stop, run_manager, **kwargs)  # noqa: SLF001 - delegation


def stream(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    insertion: Insertion,
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> Generator[ChatGenerationChunk, None, None]:
    """The chunks of an arm's answer; one chunk if the arm cannot stream."""
    if isinstance(arm, BaseChatModel) and can_stream(arm, kwargs) and type(arm)._stream is not BaseChatModel._stream:  # noqa: SLF001 - delegation
        yield from arm._stream(insert(messages, insertion), stop, run_manager, **kwargs)  # noqa: SLF001 - delegation
    else:
        yield _as_chunk(generate(arm, messages, insertion, stop, run_manager, **kwargs))


async def astream(
    arm: ArmModel,
    messages: Sequence[BaseMessage],
    insertion: Insertion,
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    **kwargs: Any,
) -> AsyncGenerator[ChatGenerationChunk, None]:
    """`stream` with the arm's own async client."""
    if isinstance(arm, BaseChatModel) and can_stream(arm, kwargs):
        chunks = arm._astream(insert(messages, insertion), stop, run_manager, **kwargs)  # noqa: SLF001 - delegation
        async with aclosing(cast("Any", chunks)):  # a caller that stops reading ends the arm's request
            async for chunk in chunks:
                yield chunk
    else:
        yield _as_chunk(await agenerate(arm, messages, insertion, stop, run_manager, **kwargs))


def _as_text(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> str:
    """The conversation as a completion prompt that ends where the assistant's turn begins."""
    unsupported = [name for name in _NOT_TEXT if kwargs.get(name)]
    if unsupported:
        raise NotImplementedError(
            f"a completion model does not support {', '.join(unsupported)}; use chat models as arms"
        )
    return get_buffer_string(messages) + "\nAI:"


def _as_chat(result: LLMResult) -> ChatResult:
    """The completions of one prompt as chat generations, without the space that follows ``AI:``."""
    output = result.llm_output or {}
    named = {"model_name": output["model_name"]} if output.get("model_name") else {}
    generations = [
        ChatGeneration(
            message=AIMessage(
                generation.text.removeprefix(" "),
                response_metadata={**(generation.generation_info or {}), **named},
                usage_metadata=_usage(output.get("token_usage")),
            ),
            generation_info=generation.generation_info,
        )
        for generation in result.generations[0]
    ]
    return ChatResult(generations=generations, llm_output=result.llm_output)


def _usage(counted: Mapping[str, int] | None) -> UsageMetadata | None:
    if not counted or "prompt_tokens" not in counted:
        return None
    read, written = int(counted["prompt_tokens"]), int(counted.get("completion_tokens", 0))
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    generation = result.generations[0]
    fields = generation.message.model_dump(exclude={"type"})
    info = {**(result.llm_output or {}), **(generation.generation_info or {})}
    return ChatGenerationChunk(message=AIMessageChunk(**fields), generation_info=info)


def _least(values: Sequence[object]) -> object:
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int) for value in values):
        return min(cast("Sequence[int]", values))
    return values[0] if all(value == values[0] for value in values) else None
