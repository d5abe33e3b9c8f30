"""Finds the question inside a query engine's prompt.

A query engine sends documents and question in one text. A routing LLM sees only that text, and would embed the
documents. So a context variable keeps the question of the running synthesis. It reaches the LLM's call in sync and
async engines, because LlamaIndex sends its events in the task that makes the call.

A streamed answer is produced where it is read, after its synthesis has ended. `carry` sets the variable there, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.events.span import SpanDropEvent

T = TypeVar("T")

_question: ContextVar[str] = ContextVar("iccache_question", default="")


def question_in(text: str) -> str | None:
    """The question of the running synthesis if `text` contains it; else None. Needs `listen`."""
    question = _question.get()
    return question if question.strip() and question in text else None


def question_of(query: QueryBundle | str) -> str:
    """The text of a query in a LlamaIndex event."""
    return query if isinstance(query, str) else query.query_str


def listen() -> None:
    """Register the process-wide listener for questions (idempotent)."""
    install(_Listener())


def install(handler: BaseEventHandler) -> None:
    """Add a handler to LlamaIndex's root dispatcher, unless one of the same class is registered."""
    root = get_dispatcher()
    if not any(type(known) is type(handler) for known in root.event_handlers):
        root.add_event_handler(handler)


def carry(response: object, variable: ContextVar[T], value: T, ended: Callable[[str], None] | None = None) -> bool:
    """Set `variable` to `value` while a streamed response is produced; False if `response` is not streamed.

    Args:
        response: A synthesizer's response; its stream is replaced in place.
        variable: The context variable.
        value: The value to set.
        ended: Called with the whole text once the stream has been read to its end.
    """
    if isinstance(response, StreamingResponse):
        response.response_gen = _carried(response.response_gen, variable, value, ended)
        return True
    if isinstance(response, AsyncStreamingResponse):
        response.response_gen = _acarried(response.response_gen, variable, value, ended)
        return True
    return False


class _Listener(BaseEventHandler):
    """Keeps the question of the running synthesis."""

    @classmethod
    def class_name(cls) -> str:
        return "ICCacheQuestionListener"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        match event:
            case SynthesizeStartEvent():
                _question.set(question_of(event.query))
            case SynthesizeEndEvent():
                carry(event.response, _question, _question.get())
                _question.set("")
            case SpanDropEvent():  # a step failed: the next call belongs to another question
                _question.set("")


def _carried(
    stream: Generator[str, None, None], variable: ContextVar[T], value: T, ended: Callable[[str], None] | None
) -> Generator[str, None, None]:
    pieces: list[str] = []
    with closing(stream):
        while True:
            with _set_temporarily(variable, value):
                try:
                    piece = next(stream)
                except StopIteration:
                    break
            pieces.append(piece)
            yield piece
    if ended:
        ended("".join(pieces))


async def _acarried(
    stream: AsyncGenerator[str, None], variable: ContextVar[T], value: T, ended: Callable[[str], None] | None
) -> AsyncGenerator[str, None]:
    pieces: list[str] = []
    async with aclosing(stream):
        while True:
            with _set_temporarily(variable, value):
                try:
                    piece = await anext(stream)
                except StopAsyncIteration:
                    break
            pieces.append(piece)
            yield piece
    if ended:
        ended("".join(pieces))


@contextmanager
def _set_temporarily(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set the variable while the stream produces a piece, but not while its reader runs."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
