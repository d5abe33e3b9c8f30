"""What `ICCacheChatModel` is built from: sorts its arguments, and refuses what contradicts itself."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from pydantic import ValidationError

from shared_core.engine import Engine
from shared_core.errors import SettingIsWrong
from shared_core.settings import Settings
from shared_core.values import Arm, Style

# LangChain's standard parameters that are a client's own affair; each arm has a client.
_CLIENT: Final = frozenset({"api_key", "base_url", "max_retries", "timeout"})


@dataclass(frozen=True, slots=True)
class Sorted:
    """Keyword arguments by whom they concern: LangChain's base class, or the engine's settings."""

    base: Mapping[str, Any]
    knobs: Mapping[str, Any]


def sort(others: Mapping[str, Any]) -> Sorted:
    """Tell fields of `BaseChatModel` from those of `Settings`.

    Raises:
        SettingIsWrong: An argument is neither.
    """
    base = {name: value for name, value in others.items() if name in BaseChatModel.model_fields}
    knobs = {name: value for name, value in others.items() if name in Settings.model_fields}
    clients = sorted(others.keys() & _CLIENT)
    if clients:
        warnings.warn(f"{', '.join(clients)}: each arm has a client of its own; set it there", stacklevel=4)
    for name in others.keys() - base.keys() - knobs.keys() - _CLIENT:
        near = difflib.get_close_matches(name, [*Settings.model_fields, *BaseChatModel.model_fields], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingIsWrong(f"ICCacheChatModel takes no {name}{hint}")
    return Sorted(base, knobs)


def settings_of(settings: Settings | None, knobs: Mapping[str, Any]) -> Settings | None:
    """The settings with single knobs on top.

    Raises:
        SettingIsWrong: A value is out of range.
    """
    if not knobs:
        return settings
    given = settings.model_dump(exclude_unset=True) if settings else {}
    try:
        return Settings(**{**given, **knobs})
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingIsWrong(reasons) from error


def core_arms(
    names: list[str], reference: str, costs: Mapping[str, float] | None, styles: Mapping[str, Style] | None
) -> list[Arm]:
    """The arms as the engine knows them: the reference costs 1.0 unless said otherwise, and is shown no examples.

    Raises:
        SettingIsWrong: A cost is missing, or an unknown arm is named.
    """
    prices, styles = {reference: 1.0, **(costs or {})}, styles or {}
    missing = [name for name in names if name not in prices]
    if missing:
        raise SettingIsWrong(
            f"costs lack {', '.join(map(repr, missing))}; give the cost of one request relative to {reference!r}, which "
            "counts as 1.0: costs={'small': 0.1} says that ten small answers cost as much as one of the reference"
        )
    unknown = sorted((prices.keys() | styles.keys()) - set(names))
    if unknown:
        raise SettingIsWrong(f"costs and styles name {unknown}, which are none of the arms {names}")
    return [Arm(name, prices[name], uses_examples=name != reference, style=styles.get(name, "chat")) for name in names]


def check_shared(engine: Engine, names: list[str], given: Mapping[str, object]) -> None:
    """Refuse an engine that was built for something else.

    Raises:
        SettingIsWrong: It routes between other arms, or arguments are given that it has already.
    """
    doubled = sorted(name for name, value in given.items() if value is not None)
    if doubled:
        raise SettingIsWrong(f"a shared engine has its own {', '.join(doubled)}; leave them out, or leave out engine=")
    if set(engine.arms) != set(names):
        raise SettingIsWrong(f"the shared engine routes between {sorted(engine.arms)}, not between {sorted(names)}")
