"""Builds the engine of a routing surface from what the user gave, and refuses what contradicts itself."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, Final, get_args

from shared_core.engine import Engine
from shared_core.errors import SettingIsWrong
from shared_core.inference import Embedder
from shared_core.inference.embedders import SentenceTransformerEmbedder, as_embedder, default_embedder
from shared_core.manager.privacy import Redact
from shared_core.reward import Reward
from shared_core.settings import Settings, read_settings
from shared_core.store.protocol import Store
from shared_core.values import Arm, Style

DEFAULT_STORE: Final = "sqlite:///iccache.db"


def routing_engine(
    names: Sequence[str],
    reference: str,
    *,
    costs: Mapping[str, float] | None,
    styles: Mapping[str, Style] | None,
    store: Store | str | None,
    embedder: object | None,
    reward: Reward | None,
    redact: Redact | None,
    settings: Settings | None,
    engine: Engine | None,
    background: bool,
) -> Engine:
    """The given engine, if it routes between these arms; else a new one. None stands for what was not given.

    Raises:
        SettingIsWrong: The arguments contradict each other, or the engine was built for something else.
        StoreIsUnusable, EmbedderDiffers, ExtraIsMissing: See `Engine`.
    """
    if engine is not None:
        given = {"store": store, "embedder": embedder, "reward": reward, "redact": redact}
        check_shared(engine, names, given | {"settings": settings, "costs": costs, "styles": styles})
        return engine
    return Engine(
        store=DEFAULT_STORE if store is None else store,
        arms=core_arms(names, reference, costs, styles),
        reference=reference,
        embedder=ready_embedder(embedder),
        settings=settings,
        reward=reward,
        redact=redact,
        background=background,
    )


def example_engine(
    *,
    store: Store | str | None,
    embedder: object | None,
    redact: Redact | None,
    settings: Settings | None,
    engine: Engine | None,
) -> Engine:
    """The given engine, else a new one for a surface that chooses examples and no model. None: not given.

    Raises:
        SettingIsWrong: An engine is given together with what it has already.
        StoreIsUnusable, EmbedderDiffers, ExtraIsMissing: See `Engine`.
    """
    if engine is not None:
        _refuse_doubles({"store": store, "embedder": embedder, "redact": redact, "settings": settings})
        return engine
    return Engine(
        store=DEFAULT_STORE if store is None else store,
        embedder=ready_embedder(embedder),
        settings=settings,
        redact=redact,
    )


def ready_embedder(given: object | None) -> Embedder:
    """What the user gave as an embedder; for None all-MiniLM-L6-v2, once in a process. Models are loaded, in seconds.

    So the first request is answered in time, a wrong name is told at once, and what a short script leaves behind can
    still be embedded when it ends (docs/decisions/0027-the-end.md).

    Raises:
        SettingIsWrong: It is no embedder, or cannot be loaded.
        ExtraIsMissing: sentence-transformers is needed and not installed.
    """
    embedder = _default() if given is None else as_embedder(given)
    if isinstance(embedder, SentenceTransformerEmbedder):
        embedder.warm()
    return embedder


@lru_cache(maxsize=1)
def _default() -> Embedder:
    return default_embedder()


def check_arms(names: Sequence[str], reference: str) -> None:
    """Refuse what cannot be routed.

    Raises:
        SettingIsWrong: Fewer than two arms, or an unknown reference.
    """
    if len(names) < 2:
        raise SettingIsWrong(f"routing needs at least two arms, a small model and the reference; got {list(names)}")
    if reference not in names:
        raise SettingIsWrong(f"reference={reference!r} is none of the arms {list(names)}; name the model to be matched")


def settings_of(settings: Settings | None, knobs: Mapping[str, Any]) -> Settings | None:
    """The settings with single knobs on top.

    Raises:
        SettingIsWrong: A value is out of range, or the environment or iccache.toml cannot be used.
    """
    if not knobs:
        return settings
    given = settings.model_dump(exclude_unset=True) if settings else {}
    return read_settings(**{**given, **knobs})


def split_kwargs(
    others: Mapping[str, Any], fields: Collection[str], surface: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of a surface: those that its framework's base class knows, and those that `Settings` knows.

    Args:
        others: The keyword arguments.
        fields: What the base class knows.
        surface: Name of the surface, for the message.

    Raises:
        SettingIsWrong: An argument is neither; the message guesses what was meant.
    """
    knobs = {name: value for name, value in others.items() if name in Settings.model_fields}
    base = {name: value for name, value in others.items() if name in fields and name not in knobs}
    for name in sorted(others.keys() - base.keys() - knobs.keys()):
        near = difflib.get_close_matches(name, [*Settings.model_fields, *fields], 1)
        raise SettingIsWrong(f"{surface} takes no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return base, knobs


def core_arms(
    names: Sequence[str], reference: str, costs: Mapping[str, float] | None, styles: Mapping[str, Style] | None
) -> list[Arm]:
    """The arms as the engine knows them: the reference costs 1.0 unless said otherwise, and is shown no examples.

    Raises:
        SettingIsWrong: A cost is missing or no finite number, a style is unknown, or an unknown arm is named.
    """
    for argument, given in (("costs", costs), ("styles", styles)):
        if not isinstance(given, Mapping | None):
            raise SettingIsWrong(f"{argument} is {given!r}; give a mapping from the names of arms")
    prices, styles = {reference: 1.0, **(costs or {})}, styles or {}
    for name, price in prices.items():
        if not _is_finite(price):
            raise SettingIsWrong(f"costs[{name!r}] is {price!r}; give a number, 1.0 being one request to {reference!r}")
    for name, style in styles.items():
        if style not in get_args(Style):
            raise SettingIsWrong(f"styles[{name!r}] is {style!r}; give one of {', '.join(get_args(Style))}")
    missing = [name for name in names if name not in prices]
    if missing:
        raise SettingIsWrong(
            f"costs lack {', '.join(map(repr, missing))}; give the cost of one request relative to {reference!r}, which "
            "counts as 1.0: costs={'small': 0.1} says that ten small answers cost as much as one of the reference"
        )
    unknown = sorted((prices.keys() | styles.keys()) - set(names))
    if unknown:
        raise SettingIsWrong(f"costs and styles name {unknown}, which are none of the arms {list(names)}")
    return [Arm(name, prices[name], uses_examples=name != reference, style=styles.get(name, "chat")) for name in names]


def _is_finite(price: object) -> bool:
    """True for numbers that a sum of costs can hold; True and False are no numbers here."""
    try:
        return isinstance(price, Real) and not isinstance(price, bool) and math.isfinite(price)
    except OverflowError:
        return False


def check_shared(engine: Engine, names: Sequence[str], given: Mapping[str, object]) -> None:
    """Refuse an engine that was built for something else.

    Raises:
        SettingIsWrong: It routes between other arms, or arguments are given that it has already.
    """
    _refuse_doubles(given)
    if set(engine.arms) != set(names):
        raise SettingIsWrong(f"the shared engine routes between {sorted(engine.arms)}, not between {sorted(names)}")


def _refuse_doubles(given: Mapping[str, object]) -> None:
    doubled = sorted(name for name, value in given.items() if value is not None)
    if doubled:
        raise SettingIsWrong(f"a shared engine has its own {', '.join(doubled)}; leave them out, or leave out engine=")
