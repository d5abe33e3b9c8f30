"""Refuses misuse of a constructor before it runs, in the same words for every class."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from shared_core.errors import ConfigurationError, shown

F = TypeVar("F", bound=Callable[..., None])

_WHATEVER: Final = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def check_arguments(also: Collection[str] = ()) -> Callable[[F], F]:
    """Decorate an ``__init__`` that has no `EngineOptions`; see `checked`."""
    return lambda init: checked(init, inspect.signature(init), also)


def checked(init: F, signature: inspect.Signature, also: Collection[str] = ()) -> F:
    """`init`, with misuse refused as `ConfigurationError`: an argument that is unknown, missing or of the wrong kind.

    Args:
        init: An ``__init__``. The fields of a pydantic model are arguments, too.
        signature: Its arguments.
        also: Further names that it reads itself, which are not suggested.
    """
    named = [p for p in list(signature.parameters.values())[1:] if p.kind not in _WHATEVER]
    by_position = [p.name for p in named if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [p.name for p in named if p.default is p.empty]

    @wraps(init)
    def checking(self: object, *args: Any, **options: Any) -> None:
        kind = type(self).__name__
        known = [*(p.name for p in named), *getattr(type(self), "model_fields", ())]
        _check_positions(kind, args, by_position, known)
        _check_names(kind, options, known, also)
        _check_missing(kind, [name for name in required if name not in {*by_position[: len(args)], *options}])
        try:
            init(self, *args, **options)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_text(e) for e in error.errors())) from None

    checking.__signature__ = signature  # type: ignore[attr-defined]  # read by `inspect`
    return checking  # type: ignore[return-value]  # it takes what `init` takes


def check_text(name: str, value: object, expected: str) -> None:
    """Check that an argument is a text or None; `expected` says which text."""
    if not isinstance(value, str | None):
        raise ConfigurationError(f"{name} is {shown(value)}; pass {expected}")


def check_query_fn(value: object) -> None:
    """Check that `query_fn` is a function or None."""
    if value is not None and not callable(value):
        raise ConfigurationError(f"query_fn is {shown(value)}; pass a function from the messages to a text")


def _check_positions(kind: str, args: Sequence[object], by_position: Sequence[str], known: Sequence[str]) -> None:
    if len(args) > len(by_position):
        first = ", ".join(f"{name}=…" for name in dict.fromkeys([*by_position, *known[:2]]))
        taken = f"only {', '.join(by_position)}" if by_position else "nothing"
        raise ConfigurationError(f"{kind} takes {taken} without a name; name the arguments: {kind}({first})")


def _check_names(kind: str, options: Mapping[str, object], known: Sequence[str], also: Collection[str]) -> None:
    for name in sorted(options.keys() - {*known, *also}):
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigurationError(f"{kind} takes no {name}" + (f"; did you mean {near[0]}?" if near else ""))


def _check_missing(kind: str, missing: Sequence[str]) -> None:
    if missing:
        given = ", ".join(f"{name}=…" for name in missing)
        raise ConfigurationError(f"{kind} needs {' and '.join(missing)}; pass {kind}({given})")


def _text(found: Any) -> str:
    """What pydantic found, in our words."""
    name = ".".join(str(part) for part in found["loc"])
    expected = str(found["msg"]).removeprefix("Input should be ").partition(", unable")[0]
    return f"{name} is {shown(found['input'])}; it must be {expected}"
