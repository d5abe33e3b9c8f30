"""Converts LlamaIndex messages: normalises turns, inserts examples, and reads how an answer ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
)

from shared_core.adapters.parameters import plain, rated_id
from shared_core.adapters.provenance import PROVENANCE, REASON_KEYS, finish_reason, is_clean
from shared_core.errors import NotFromICCache
from shared_core.text import canonical_json
from shared_core.values import Insertion, Message, Outcome, Role

Response: TypeAlias = ChatResponse | CompletionResponse
R = TypeVar("R", ChatResponse, CompletionResponse)

_ROLES: Final[dict[MessageRole, Role]] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_NOT_SENT: Final = frozenset({"text", "cache"})  # blocks that are the text itself, or mark where to cache it
# The keys of `additional_kwargs` that integrations send to the model; others (such as usage) are only informative.
_SENT: Final = ("function_call", "name", "tool_call_id", "tool_calls")
_CALLS: Final = ("tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """The metadata of a provider's raw answer; unknown values are empty.

    Attributes:
        reason: The finish reason, in the provider's word in lower case.
        writer: The model.
        prompt_tokens: As the provider counted them.
        completion_tokens: As the provider counted them.
        answers: Number of answers (n).
        cached_tokens: Prompt tokens that the provider read from its cache.
    """

    reason: str | None = None
    writer: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answers: int = 0
    cached_tokens: int = 0

    @classmethod
    def of(cls, response: Response) -> ResponseInfo:
        """Read the raw answer: an object or a mapping, in OpenAI's format or another."""
        raw = response.raw
        choices = _read(raw, "choices")
        choices = choices if isinstance(choices, Sequence) else ()
        ended = choices[0] if choices else raw
        usage = _read(raw, "usage")
        return cls(
            _reason(ended),
            _text(_read(raw, "model")),
            _count(usage, response, "prompt_tokens", "input_tokens"),
            _count(usage, response, "completion_tokens", "output_tokens"),
            len(choices),
            _first_integer([_read(_read(usage, "prompt_tokens_details"), "cached_tokens")]),
        )

    def merge(self, later: ResponseInfo) -> ResponseInfo:
        """Merge with a later piece of the same answer; later values win."""
        return ResponseInfo(
            later.reason or self.reason,
            later.writer or self.writer,
            later.prompt_tokens or self.prompt_tokens,
            later.completion_tokens or self.completion_tokens,
            max(later.answers, self.answers),
            later.cached_tokens or self.cached_tokens,
        )


def normalised(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """One `Message` for each message, without usage and other metadata that the model does not see."""
    return tuple(Message(_ROLES.get(m.role, "user"), m.content or "", _extra(m)) for m in messages)


def as_messages(turns: Sequence[Message]) -> list[ChatMessage]:
    """LlamaIndex's messages with the roles and texts of `turns`."""
    return [ChatMessage(role=MessageRole(turn.role), content=turn.text) for turn in turns]


def insert(messages: Sequence[ChatMessage], insertion: Insertion) -> list[ChatMessage]:
    """The conversation with the examples inserted, as a new list; the given messages are not changed."""
    placed = list(messages)
    if insertion.rewrite is not None:
        last = next(i for i in reversed(range(len(placed))) if _ROLES.get(placed[i].role) == "user")
        kept = [block for block in placed[last].blocks if not isinstance(block, TextBlock)]
        blocks: list[ContentBlock] = [TextBlock(text=insertion.rewrite), *kept]
        placed[last] = placed[last].model_copy(update={"blocks": blocks})
    return placed[: insertion.index] + as_messages(insertion.turns) + placed[insertion.index :]


def outcome_of(response: Response, info: ResponseInfo | None = None) -> Outcome:
    """How the call ended. An answer without a finish reason counts as finished.

    Args:
        response: The answer, or the last piece of a streamed answer, which holds the whole text.
        info: The merged metadata of all pieces; by default that of `response`.
    """
    info = info or ResponseInfo.of(response)
    return Outcome(
        answer=text_of(response),
        finished=is_clean(info.reason) and info.answers <= 1,  # of n answers, it is unknown which one was used
        tool_calls=calls_tools(response),
        writer=info.writer,
        prompt_tokens=info.prompt_tokens,
        completion_tokens=info.completion_tokens,
        cached_tokens=info.cached_tokens,
    )


def text_of(response: Response) -> str:
    """The text of an answer."""
    return response.text if isinstance(response, CompletionResponse) else response.message.content or ""


def calls_tools(response: Response) -> bool:
    """True if the answer holds tool calls."""
    if isinstance(response, CompletionResponse):
        return any(response.additional_kwargs.get(name) for name in _CALLS)
    message = response.message
    called = any(message.additional_kwargs.get(name) for name in _CALLS)
    return called or any(_kind(block) == "tool_call" for block in message.blocks)


def has_content(response: Response) -> bool:
    """True if this piece of an answer holds text, a tool call or reasoning."""
    if response.delta or text_of(response) or calls_tools(response):
        return True
    # Reasoning before the answer counts: the model has begun.
    return isinstance(response, ChatResponse) and any(_kind(block) != "text" for block in response.message.blocks)


def as_completion(response: ChatResponse) -> CompletionResponse:
    """A chat answer as a completion."""
    return CompletionResponse(
        text=text_of(response),
        additional_kwargs={**response.message.additional_kwargs, **response.additional_kwargs},
        raw=response.raw,
        logprobs=response.logprobs,
        delta=response.delta,
    )


def as_completions(pieces: Generator[ChatResponse, None, None]) -> Generator[CompletionResponse, None, None]:
    """`as_completion` of each piece."""
    with closing(pieces):
        yield from map(as_completion, pieces)


async def as_acompletions(pieces: AsyncGenerator[ChatResponse, None]) -> AsyncGenerator[CompletionResponse, None]:
    """`as_completion` of each piece."""
    async with aclosing(pieces):
        async for piece in pieces:
            yield as_completion(piece)


def marked(response: R, provenance: Mapping[str, object]) -> R:
    """A copy that holds its provenance; a copy, because the arm may return the same object again."""
    additional = {**response.additional_kwargs, PROVENANCE: dict(provenance)}
    return response.model_copy(update={"additional_kwargs": additional})


def arm_of(response: Response) -> str | None:
    """The name of the arm that gave this answer, if it came through IC-Cache."""
    provenance = response.additional_kwargs.get(PROVENANCE)
    arm = provenance.get("arm") if isinstance(provenance, dict) else None
    return arm if isinstance(arm, str) else None


def decision_id_of(answer: Response | UUID | str) -> str:
    """The decision id of an answer, given as the response or as the id itself.

    Raises:
        ConfigurationError: It is neither.
        NotFromICCache: The response did not come through IC-Cache.
    """
    if not hasattr(answer, "additional_kwargs"):
        return rated_id(answer)
    provenance = answer.additional_kwargs.get(PROVENANCE)
    if not isinstance(provenance, dict) or "decision_id" not in provenance:
        raise NotFromICCache(
            f"this {type(answer).__name__} has no additional_kwargs['iccache']: it did not come through IC-Cache, or a "
            "later step dropped its metadata; pass the decision id instead, ICCacheRouteEvent.provenance['decision_id']"
        )
    return str(provenance["decision_id"])


def _extra(message: ChatMessage) -> str:
    """Canonical JSON of what is sent in addition to text and role; empty if nothing is."""
    extra: dict[str, object] = {name: message.additional_kwargs.get(name) for name in _SENT}
    extra["blocks"] = [block for block in message.blocks if _kind(block) not in _NOT_SENT]
    sent = {name: plain(value) for name, value in extra.items() if value}
    return canonical_json(sent) if sent else ""


def _reason(ended: object) -> str | None:
    """The finish reason. Keys are read one at a time, because a failed read of a raw object is slow."""
    return next(filter(None, (finish_reason({key: _read(ended, key)}) for key in REASON_KEYS)), None)


def _kind(block: ContentBlock) -> str:
    return _text(getattr(block, "block_type", ""))


def _count(usage: object, response: Response, *names: str) -> int:
    """A token count from the raw answer, else from `additional_kwargs`, where LlamaIndex's integrations put it."""
    counts = (_read(source, name) for source in (usage, response.additional_kwargs) for name in names)
    return _first_integer(counts)


def _first_integer(counts: Iterable[object]) -> int:
    return next((count for count in counts if isinstance(count, int)), 0)


def _read(source: object, name: str) -> object:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
