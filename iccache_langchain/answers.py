"""Reads and marks the answers of LangChain chat models, whole or streamed: the `Answers` of this adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks

from iccache_langchain.arms import ArmModel, can_stream, model_name
from iccache_langchain.messages import outcome_of
from shared_core.adapters.provenance import PROVENANCE
from shared_core.values import Decision, Outcome

G = TypeVar("G", bound=ChatGeneration)


@dataclass(frozen=True, slots=True)
class ChatAnswers:
    """Reads the answers to one call.

    Attributes:
        arms: The candidate models by name.
        kwargs: The call's arguments other than messages and stop.
    """

    arms: Mapping[str, ArmModel]
    kwargs: Mapping[str, Any]

    def finished(self, decision: Decision, answer: ChatResult) -> tuple[ChatResult, Outcome | None]:
        """The answer with its provenance in each generation, and the outcome of the first."""
        generations = [marked(generation, decision) for generation in answer.generations]
        result = ChatResult(generations=generations, llm_output=answer.llm_output)
        if not answer.generations:
            return result, None
        outcome = outcome_of(described(answer.generations[0], answer.llm_output))
        if len(answer.generations) > 1:  # of n answers, it is unknown which one was used
            outcome = replace(outcome, finished=False)
        return result, replace(outcome, writer=outcome.writer or model_name(self.arms[decision.arm]))

    def has_begun(self, piece: ChatGenerationChunk) -> bool:
        """True if this chunk holds text, reasoning or a tool call."""
        message = piece.message
        return bool(message.content or message.additional_kwargs or getattr(message, "tool_call_chunks", None))

    def transcript(self, decision: Decision) -> ChatTranscript:
        """Collects the chunks that the decision's arm streams."""
        return ChatTranscript(decision, self.arms[decision.arm], self.kwargs)


class ChatTranscript:
    """The chunks of one answer."""

    def __init__(self, decision: Decision, arm: ArmModel, kwargs: Mapping[str, Any]) -> None:
        self._decision = decision
        self._arm = arm
        self._kwargs = kwargs
        self._chunks: list[ChatGenerationChunk] = []

    def take(self, piece: ChatGenerationChunk) -> ChatGenerationChunk:
        """The chunk to pass on. Only the first is marked, because LangChain concatenates the texts of added chunks."""
        if not self._chunks:
            piece = marked(piece, self._decision)
        self._chunks.append(piece)
        return piece

    def outcome(self, *, ended: bool) -> Outcome | None:
        """How the answer ended; None if the arm sent nothing."""
        whole = merge_chat_generation_chunks(self._chunks)
        if whole is None:
            return None
        outcome = outcome_of(described(whole), require_finish_reason=can_stream(self._arm, self._kwargs))
        writer = outcome.writer or model_name(self._arm)
        return replace(outcome, finished=outcome.finished and ended, broken_off=not ended, writer=writer)


def marked(generation: G, decision: Decision) -> G:
    """A copy that holds its provenance; a copy, because the arm may return the same object again."""
    message = generation.message
    metadata = {**message.response_metadata, PROVENANCE: decision.provenance()}
    return generation.model_copy(update={"message": message.model_copy(update={"response_metadata": metadata})})


def described(generation: ChatGeneration, llm_output: dict[str, object] | None = None) -> AIMessage:
    """The message with the `response_metadata` that LangChain fills in later."""
    message = generation.message
    metadata = {**(llm_output or {}), **(generation.generation_info or {}), **message.response_metadata}
    described = message.model_copy(update={"response_metadata": metadata})
    return described if isinstance(described, AIMessage) else AIMessage(str(message.text), response_metadata=metadata)
