"""Reads JSON objects with a schema version, field by field, and checks each field's type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final, NoReturn

from shared_core.records import Average

SCHEMA: Final = 1
MAX_VALUE_BYTES: Final = 64 * 2**20  # one JSON value; longer than any model's answer

_INTEGER_LIMIT: Final = 2**63


class Unreadable(Exception):
    """Stored bytes are corrupt, too large, nested too deep, or of an unknown version. Stores skip and count them."""


def dump(fields: Mapping[str, object]) -> bytes:
    """`fields` as one line of JSON with the schema version ``v``.

    Raises:
        ValueError: A number is not finite, or the JSON is too large to be decoded.
        TypeError: A value is not JSON.
    """
    return check_size(_ENCODER.encode({"v": SCHEMA, **fields}).encode("utf-8", "surrogatepass"))


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


class Fields:
    """The fields of one stored JSON object. A field that is missing or has another type raises `Unreadable`."""

    __slots__ = ("_fields",)

    def __init__(self, data: object) -> None:
        raw = raw_bytes(data, MAX_VALUE_BYTES)
        try:
            fields = _DECODER.decode(raw.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"JSON: {error}") from error
        if not isinstance(fields, dict) or fields.get("v") != SCHEMA:
            raise Unreadable(f"expected an object of version {SCHEMA}")
        self._fields: dict[str, object] = fields

    def expect(self, name: str, value: str) -> None:
        """Check that the text `name` is `value`, the key under which the object was stored."""
        if self.text(name) != value:
            raise Unreadable(f"the {name} differs from the one in the key")

    def text(self, name: str) -> str:
        """A string."""
        return _text(self._fields.get(name))

    def number(self, name: str) -> float:
        """A finite number."""
        return _number(self._fields.get(name))

    def integer(self, name: str) -> int:
        """A 64-bit integer."""
        return _integer(self._fields.get(name))

    def flag(self, name: str) -> bool:
        """A boolean."""
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise Unreadable(f"{name}: expected a boolean")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(_text(value) for value in self._list(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(_number(value) for value in self._list(name))

    def average(self, name: str) -> Average:
        """A pair of value and count."""
        pair = self._list(name)
        if len(pair) != 2:
            raise Unreadable(f"{name}: expected a pair")
        return Average(_number(pair[0]), _integer(pair[1]))

    def table(self, name: str) -> dict[str, object]:
        """An object with any content."""
        value = self._fields.get(name)
        if not isinstance(value, dict):
            raise Unreadable(f"{name}: expected an object")
        return value

    def _list(self, name: str) -> list[object]:
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise Unreadable(f"{name}: expected a list")
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not JSON")


# `json.dumps` and `json.loads` would build these at every call, which takes longer than coding most values
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable("expected a string")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _INTEGER_LIMIT:
        raise Unreadable("expected a 64-bit integer")
    return value


def _number(value: object) -> float:
    number = float(value) if isinstance(value, float) else float(_integer(value))
    if not math.isfinite(number):
        raise Unreadable("expected a finite number")
    return number
