"""Stored JSON objects with a schema version ``v``, checked by pydantic against the dataclass that they stand for.

A missing field gets the dataclass's default, and an unknown field is ignored. So a value of another release can be
read, and ``v`` changes only if the meaning of a field does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from shared_core.records import Count

T = TypeVar("T")

SCHEMA: Final = 1
MAX_VALUE_BYTES: Final = 64 * 2**20  # one JSON value; longer than any model's answer

_QUOTES_OF_V: Final = 2  # quotation marks of an object that holds its version and nothing else
_SURROGATE: Final = b"\xed"  # the first byte of every surrogate (and of some letters)


class Unreadable(Exception):
    """Stored bytes are corrupt, too large, nested too deep, or of an unknown version. Stores skip and count them."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a stored object holds beside the fields of its value.

    Attributes:
        v: The schema version.
        dimension: Length of the vector that is stored beside the object; 0 if it does not say.
    """

    v: Literal[1]
    dimension: Count = 0


_HEADER: Final = TypeAdapter(Header)


class Format(Generic[T]):
    """The JSON of one kind of value.

    Args:
        kind: A dataclass. `records` has the types of its numbers.
        without: Names of fields that are stored elsewhere. They have defaults.
    """

    def __init__(self, kind: type[T], *without: str) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._without = set(without)

    def dump(self, value: T, dimension: int = 0) -> bytes:
        """`value` as one line of JSON.

        Raises:
            ValueError: A number is not finite, or the JSON is too large to be decoded.
        """
        head = f'{{"v":{SCHEMA},"dimension":{dimension},' if dimension else f'{{"v":{SCHEMA},'
        try:
            data = head.encode() + self._adapter.dump_json(value, exclude=self._without)[1:]
        except ValueError:  # a lone surrogate: Python writes it, pydantic does not
            fields = self._adapter.dump_python(value, exclude=self._without)
            data = (head + _ENCODER.encode(fields)[1:]).encode("utf-8", "surrogatepass")
        check_size(data)
        if b"null" in data and _holds_null(_DECODER.decode(data.decode("utf-8", "surrogatepass"))):
            raise ValueError("a number that is not finite cannot be stored")
        return data

    def load(self, data: object) -> tuple[T, Header]:
        """The value of stored bytes; the fields that are stored elsewhere have any value.

        Raises:
            Unreadable: The bytes are not such an object, or it has no field at all.
        """
        raw = raw_bytes(data, MAX_VALUE_BYTES)
        if raw.count(b'"') <= _QUOTES_OF_V:
            raise Unreadable("an object without fields")
        try:
            return self._adapter.validate_json(raw), _HEADER.validate_json(raw)
        except ValidationError as error:
            if _SURROGATE not in raw:
                raise Unreadable(str(error)) from error
        return self._load_surrogates(raw)

    def _load_surrogates(self, raw: bytes) -> tuple[T, Header]:
        fields = parse(raw)
        try:
            return self._adapter.validate_python(fields), _HEADER.validate_python(fields)
        except ValidationError as error:
            raise Unreadable(str(error)) from error


def dump(fields: Mapping[str, object]) -> bytes:
    """`fields`, which may be any JSON, as one line of JSON with the schema version.

    Raises:
        ValueError: A number is not finite, or the JSON is too large to be decoded.
        TypeError: A value is not JSON.
    """
    return check_size(_ENCODER.encode({"v": SCHEMA, **fields}).encode("utf-8", "surrogatepass"))


def parse(data: object) -> dict[str, object]:
    """The fields of any stored object.

    Raises:
        Unreadable: The bytes are not an object of this schema version.
    """
    raw = raw_bytes(data, MAX_VALUE_BYTES)
    try:
        fields = _DECODER.decode(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("v") != SCHEMA:
        raise Unreadable(f"expected an object of version {SCHEMA}")
    return fields


def check_size(data: bytes, limit: int = MAX_VALUE_BYTES) -> bytes:
    """`data`, or ValueError if it has more than `limit` bytes."""
    if len(data) > limit:
        raise ValueError(f"a value of {len(data)} bytes cannot be stored; the limit is {limit}")
    return data


def raw_bytes(data: object, limit: int) -> bytes:
    """`data`, or Unreadable if it is not bytes or longer than `limit`."""
    if not isinstance(data, bytes):
        raise Unreadable(f"expected bytes, got {type(data).__name__}")
    if len(data) > limit:
        raise Unreadable(f"{len(data)} bytes; the limit is {limit}")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not JSON")


# `json.dumps` and `json.loads` would build these at every call, which takes longer than coding most values
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _holds_null(value: object) -> bool:
    """True if a value within is null, as pydantic writes a number that is not finite."""
    if isinstance(value, Mapping):
        return any(map(_holds_null, value.values()))
    return any(map(_holds_null, value)) if isinstance(value, list) else value is None
