"""Refuses what a model cannot take, at construction or before the call, in the words of our other refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real

from shared_core.errors import ConfigurationError, kind_of, shown
from shared_core.values import Message


def check_call(messages: object, *, max_tokens: object, temperature: object, n: object, timeout: object) -> None:
    """Check the arguments of `Model.complete`.

    Raises:
        ConfigurationError: One is of another kind or out of range.
    """
    check_messages(messages)
    check_whole("max_tokens", max_tokens, 1)
    check_whole("n", n, 1)
    if not _is_number(temperature) or not temperature >= 0:  # type: ignore[operator]  # NaN is refused, too
        raise ConfigurationError(f"temperature is {shown(temperature)}; pass a number, at least 0")
    if not _is_number(timeout) or not timeout > 0:  # type: ignore[operator]
        raise ConfigurationError(f"timeout is {shown(timeout)}; pass a number of seconds above 0")


def check_messages(messages: object) -> None:
    """Check the conversation that a model is given.

    Raises:
        ConfigurationError: It is empty, or not a sequence of `Message`.
    """
    wrong = messages
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        wrong = next((message for message in messages if not isinstance(message, Message)), None)
        if wrong is None and messages:
            return
    got = f"{kind_of(wrong)} in it" if wrong is not messages else kind_of(wrong)
    raise ConfigurationError(
        "messages must be a list of Message, such as [Message('user', 'How are you?')]; got "
        f"{'an empty one' if isinstance(messages, Sequence) and not messages else got}"
    )


def check_whole(name: str, value: object, least: int) -> None:
    """Check that an argument is a whole number of at least `least`.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ConfigurationError(f"{name} is {shown(value)}; pass a whole number, at least {least}")


def check_name(name: str, value: object, expected: str) -> None:
    """Check that an argument is a text that is not empty; `expected` says which.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{name} is {shown(value)}; pass {expected}")


def check_endpoint(base_url: object) -> None:
    """Check that an address is one of HTTP. It is not shown, because it may hold a password or be a key.

    Raises:
        ConfigurationError: It is not.
    """
    expected = "an address such as 'http://localhost:8000/v1'"
    check_name("base_url", base_url, expected)
    if not str(base_url).lower().startswith(("http://", "https://")):
        raise ConfigurationError(f"base_url does not begin with http:// or https://; pass {expected}")


def check_mapping(name: str, value: object, example: str) -> None:
    """Check that an argument is a mapping or None.

    Raises:
        ConfigurationError: It is neither.
    """
    if not isinstance(value, Mapping | None):
        raise ConfigurationError(f"{name} is {kind_of(value)}; pass a dict such as {example}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
