"""Shows each constructor option in ``help`` and `inspect.signature`, where ``**options`` would hide them, and refuses
what is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, ForwardRef, TypeVar

from pydantic.fields import FieldInfo

from shared_core.adapters.arguments import checked
from shared_core.adapters.options import EngineOptions, SettingsOptions
from shared_core.settings import Settings

F = TypeVar("F", bound=Callable[..., None])

_SETTINGS: Final = SettingsOptions.__annotations__.keys()  # listed last
_DEFAULTS: Final = {
    **{name: field.default for name, field in Settings.model_fields.items()},
    "strict_scope": False,
    "background": True,
    "streaming": False,
}


def with_options(
    options: type[EngineOptions], fields: Mapping[str, FieldInfo] | None = None, also: Collection[str] = ()
) -> Callable[[F], F]:
    """Decorate an ``__init__`` with ``**options: Unpack[…]``: its run-time signature lists each option with its default.

    Type checkers and IDEs read the `Unpack` instead. What the signature does not list is refused (`checked`).

    Args:
        options: The options in the `Unpack`.
        fields: Fields of the framework's base class, for their defaults.
        also: Names that are not listed, and that the constructor answers itself.
    """

    def decorate(init: F) -> F:
        own = inspect.signature(init)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        listed = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=_default(name, fields or {}), annotation=_text(annotation)
            )
            for name, annotation in sorted(options.__annotations__.items(), key=lambda option: option[0] in _SETTINGS)
        ]
        return checked(init, own.replace(parameters=[*named, *listed]), also)

    return decorate


def _default(name: str, fields: Mapping[str, FieldInfo]) -> object:
    """The default of an option; ``...`` if the framework creates one for each object."""
    field = fields.get(name)
    if field is None:
        return _DEFAULTS.get(name)
    return ... if field.default_factory else field.default


def _text(annotation: Any) -> object:
    return annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
