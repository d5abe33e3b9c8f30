"""Converts generations to JSON and back: the form in which the exact tier stores a LangChain answer.

Stored bytes never reach `langchain_core.load`. They are parsed as JSON and checked against this schema, and each
message is built by its own validating class. Decoding returns new objects each time, so callers share nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel, ConfigDict

from shared_core.errors import kind_of

SCHEMA: Final = 1
MAX_BYTES: Final = 4 * 1024 * 1024  # enough for an answer with the log probabilities of a few thousand tokens
MAX_DEPTH: Final = 64  # tool arguments and parsed objects nest about a dozen levels; deeper input may be an attack


class CannotBeStored(ValueError):
    """The answer cannot be stored as JSON without loss."""


class CannotBeRead(ValueError):
    """The stored bytes are not an answer of this schema."""


class _Message(BaseModel):
    """The stored fields of an AIMessage. Its id is not stored, because it names the original run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: str | list[str | dict[str, Any]]
    additional_kwargs: dict[str, Any]
    response_metadata: dict[str, Any]
    name: str | None
    tool_calls: list[dict[str, Any]]
    invalid_tool_calls: list[dict[str, Any]]
    usage_metadata: dict[str, Any] | None


class _Generation(BaseModel):
    """One generation: either a text or a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None
    message: _Message | None
    info: dict[str, Any] | None


class _Answer(BaseModel):
    """The generations of one call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: int
    generations: list[_Generation]


def encode(generations: Sequence[Generation]) -> bytes:
    """The JSON of one answer, UTF-8.

    Pydantic objects (``additional_kwargs["parsed"]`` of structured output) become plain dicts, from which their class
    can rebuild them.

    Raises:
        CannotBeStored: No generation, a message that is not an AIMessage, a value that JSON does not support, an object
            that its class cannot rebuild, or an answer beyond `MAX_BYTES` or `MAX_DEPTH`.
    """
    if not generations:
        raise CannotBeStored("the answer has no generation")
    value = {"schema_version": SCHEMA, "generations": [_plain(generation) for generation in generations]}
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_dict).encode()
        decode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotBeStored(f"{type(error).__name__}: {error}") from error
    return data


def decode(data: bytes) -> list[Generation]:
    """New generations from stored bytes; messages have no id.

    Raises:
        CannotBeRead: The bytes are too many, nested too deep, not JSON, or not of this schema.
    """
    if len(data) > MAX_BYTES:
        raise CannotBeRead(f"the stored answer has {len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        value = json.loads(data)
        _check_depth(value)
        answer = _Answer.model_validate(value)
        if answer.schema_version != SCHEMA or not answer.generations:
            raise CannotBeRead(
                f"schema {answer.schema_version} with {len(answer.generations)} generations; "
                f"expected schema {SCHEMA} with at least one"
            )
        return [_live(generation) for generation in answer.generations]
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: LangChain's own check of tool calls
        raise CannotBeRead(f"{type(error).__name__}: {error}") from error


def _plain(generation: Generation) -> dict[str, object]:
    if not isinstance(generation, ChatGeneration):
        return {"text": generation.text, "message": None, "info": generation.generation_info}
    message = generation.message
    if not isinstance(message, AIMessage):
        raise CannotBeStored(f"the answer is {kind_of(message)}, not an AIMessage")
    kept = {name: getattr(message, name) for name in _Message.model_fields}
    return {"text": None, "message": kept, "info": generation.generation_info}


def _live(stored: _Generation) -> Generation:
    if stored.message is not None:
        return ChatGeneration(message=AIMessage(**dict(stored.message)), generation_info=stored.info)
    if stored.text is not None:
        return Generation(text=stored.text, generation_info=stored.info)
    raise CannotBeRead("a generation has neither text nor message")


def _as_dict(value: object) -> object:
    if not isinstance(value, BaseModel):
        raise TypeError(f"{kind_of(value)} in the answer is not a JSON value")
    copies = (_round_tripped(value, by_alias=by_alias) for by_alias in (True, False))
    plain = next((fields for fields in copies if fields is not None), None)
    if plain is None:
        raise TypeError(f"{kind_of(value)} in the answer cannot be rebuilt from its JSON")
    return plain


def _round_tripped(value: BaseModel, *, by_alias: bool) -> dict[str, object] | None:
    """The fields of `value`; None if its class cannot rebuild it from them, as LangChain does on a hit.

    Computed fields are left out, because a class that forbids extra fields would refuse them.
    """
    try:
        fields: dict[str, object] = value.model_dump(mode="json", by_alias=by_alias, round_trip=True)
        return fields if type(value)(**fields) == value else None
    except Exception:  # noqa: BLE001 - a user's validators and serialisers may raise anything
        return None


def _check_depth(value: object) -> None:
    """Walks level by level: a recursive walk could itself overflow the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise CannotBeRead(f"nested deeper than {MAX_DEPTH} levels")


def _children(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()
