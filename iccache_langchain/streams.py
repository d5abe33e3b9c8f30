"""A streamed answer as it passes by: marked on its first chunk, and put together for the record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TypeVar

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks

from iccache_langchain.messages import outcome_of
from shared_core.adapters.endings import PROVENANCE
from shared_core.values import Decision, Outcome

G = TypeVar("G", bound=ChatGeneration)


class Heard:
    """The chunks of one answer. Set `ended` once the arm has sent its last."""

    def __init__(self, decision: Decision, *, must_say_why: bool) -> None:
        self.ended = False
        self._decision = decision
        self._must_say_why = must_say_why
        self._chunks: list[ChatGenerationChunk] = []

    def take(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """The chunk to pass on. Only the first is marked: adding chunks up would join equal texts end to end."""
        if not self._chunks:
            chunk = marked(chunk, self._decision)
        self._chunks.append(chunk)
        return chunk

    def outcome(self) -> Outcome | None:
        """How the answer ended; None if nothing was said."""
        whole = merge_chat_generation_chunks(self._chunks)
        if whole is None:
            return None
        outcome = outcome_of(described(whole), must_say_why=self._must_say_why)
        return replace(outcome, finished=outcome.finished and self.ended, broken_off=not self.ended)


def up_to_first_word(chunks: Iterator[ChatGenerationChunk]) -> list[ChatGenerationChunk]:
    """Take chunks until one says something: until then another arm may answer instead."""
    lead = []
    for chunk in chunks:
        lead.append(chunk)
        if _says_something(chunk):
            break
    return lead


async def aup_to_first_word(chunks: AsyncIterator[ChatGenerationChunk]) -> list[ChatGenerationChunk]:
    """`up_to_first_word` of an async stream."""
    lead = []
    async for chunk in chunks:
        lead.append(chunk)
        if _says_something(chunk):
            break
    return lead


def marked(generation: G, decision: Decision) -> G:
    """A copy that says how it came about; the arm may hand out the same object again."""
    message = generation.message
    metadata = {**message.response_metadata, PROVENANCE: decision.provenance()}
    return generation.model_copy(update={"message": message.model_copy(update={"response_metadata": metadata})})


def described(generation: ChatGeneration, llm_output: dict[str, object] | None = None) -> AIMessage:
    """The message with all that LangChain will put into its `response_metadata` later."""
    message = generation.message
    metadata = {**(llm_output or {}), **(generation.generation_info or {}), **message.response_metadata}
    described = message.model_copy(update={"response_metadata": metadata})
    return described if isinstance(described, AIMessage) else AIMessage(str(message.text), response_metadata=metadata)


def _says_something(chunk: ChatGenerationChunk) -> bool:
    message = chunk.message
    return bool(message.content or message.additional_kwargs or getattr(message, "tool_call_chunks", None))
