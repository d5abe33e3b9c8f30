"""Builds the engine of a surface from the user's arguments, and refuses contradictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, Final, get_args

from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.options import ParsedOptions
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, kind_of
from shared_core.inference import Embedder
from shared_core.inference.embedders import (
    EmbedderLike,
    SentenceTransformerEmbedder,
    as_embedder,
    default_embedder,
)
from shared_core.store.address import StoreLike
from shared_core.user_warning import warn_user
from shared_core.values import Arm, Style

DEFAULT_STORE: Final = "sqlite:///iccache.db"


def routing_engine(names: Sequence[str], reference: str, given: ParsedOptions) -> Engine:
    """The given engine if it routes between these arms; a new one if none is given.

    Raises:
        ConfigurationError: The arguments contradict each other, or the given engine has other arms.
        StoreIsUnusable, EmbedderDiffers, ExtraIsMissing: See `EngineOptions`.
    """
    options = dict(given.engine)
    engine: Engine | None = options.pop("engine", None)
    background = options.pop("background", True)
    if engine is not None:
        check_shared(engine, names, options)
        return engine
    arms = core_arms(names, reference, *(options.pop(name, None) for name in ("costs", "styles", "example_budgets")))
    return new_engine(
        options.pop("store", DEFAULT_STORE), arms=arms, reference=reference, background=background, **options
    )


def example_engine(store: StoreLike | None, given: ParsedOptions) -> Engine:
    """The given engine, or a new one for a surface that chooses examples but no model.

    Raises:
        ConfigurationError: An engine is given together with arguments that it has already.
        StoreIsUnusable, EmbedderDiffers, ExtraIsMissing: See `EngineOptions`.
    """
    options = dict(given.engine)
    engine: Engine | None = options.pop("engine", None)
    if engine is not None:
        _refuse_doubles(options if store is None else {"store": store, **options})
        return engine
    return new_engine(DEFAULT_STORE if store is None else store, **options)


def new_engine(store: StoreLike, *, embedder: EmbedderLike | None = None, **options: Any) -> Engine:
    """An engine with the user's embedder, its model loaded; for None all-MiniLM-L6-v2, loaded once per process.

    Loading takes seconds. Doing it here answers the first request in time, reports a wrong model name at construction,
    and lets a short script embed its last answers at exit (docs/decisions/0015-the-end.md). The store is opened first,
    so a wrong one is reported at once.

    Raises:
        ConfigurationError: It is not an embedder, or cannot be loaded.
        StoreIsUnusable, EmbedderDiffers, ExtraIsMissing: See `EngineOptions`.
    """
    chosen = _default() if embedder is None else as_embedder(embedder)
    engine = Engine(store=store, embedder=chosen, **options)
    try:
        if isinstance(chosen, SentenceTransformerEmbedder):
            chosen.warm()
    except BaseException:
        engine.close()
        raise
    return engine


@lru_cache(maxsize=1)
def _default() -> Embedder:
    return default_embedder()


def check_arms(arms: object, reference: object) -> None:
    """Check that `arms` is a mapping from names to models that can be routed. Messages never show a model: it holds keys.

    Raises:
        ConfigurationError: It is not such a mapping, there are fewer than two arms, the reference is unknown, or an
            arm is a router.
    """
    if not isinstance(arms, Mapping):
        raise ConfigurationError(f"arms is {kind_of(arms)}; pass a dict such as {{'small': model, 'large': model}}")
    names = list(arms)
    unnamed = next((name for name in names if not isinstance(name, str)), None)
    if unnamed is not None:
        raise ConfigurationError(
            f"arms has {kind_of(unnamed)} as a name; pass a dict such as {{'small': model, 'large': model}}"
        )
    if not isinstance(reference, str):
        raise ConfigurationError(f"reference is {kind_of(reference)}; pass the name of an arm: {names}")
    if len(names) < 2:
        raise ConfigurationError(f"routing needs at least two arms, a small model and the reference; got {names}")
    if reference not in names:
        raise ConfigurationError(f"reference={reference!r} is not one of the arms {names}")
    for name, arm in arms.items():
        if isinstance(arm, EngineOwner):
            raise ConfigurationError(f"arm {name!r} is {kind_of(arm)}, which routes by itself; pass its arms instead")


def core_arms(
    names: Sequence[str],
    reference: str,
    costs: Mapping[str, float] | None,
    styles: Mapping[str, Style] | None,
    budgets: Mapping[str, int] | None,
) -> list[Arm]:
    """The engine's arms. The reference gets no examples, and costs 1.0 by default.

    Raises:
        ConfigurationError: An arm is unknown, a cost is missing or not finite, or a style or budget is invalid.
    """
    for argument, mapping in (("costs", costs), ("styles", styles), ("example_budgets", budgets)):
        _check_names(argument, mapping, names)
    prices, styles, budgets = {reference: 1.0, **(costs or {})}, styles or {}, budgets or {}
    _check_values(prices, styles, budgets, reference)
    missing = next((name for name in names if name not in prices), None)
    if missing is not None:
        raise ConfigurationError(
            f"costs is missing {missing!r}: give its cost relative to the reference ({reference!r} = 1.0), e.g. "
            f"costs={{{missing!r}: 0.1}}"
        )
    _warn_of_dear_arms(prices, reference)
    return [Arm(name, prices[name], name != reference, styles.get(name, "chat"), budgets.get(name)) for name in names]


def _check_names(argument: str, mapping: object, names: Sequence[str]) -> None:
    if not isinstance(mapping, Mapping | None):
        raise ConfigurationError(f"{argument} is {kind_of(mapping)}; pass a mapping from names of arms")
    unknown = sorted(key if isinstance(key, str) else type(key).__name__ for key in mapping or () if key not in names)
    if unknown:
        raise ConfigurationError(f"{argument} has the unknown arms {unknown}; the arms are {list(names)}")


def _check_values(
    prices: Mapping[str, float], styles: Mapping[str, Style], budgets: Mapping[str, int], reference: str
) -> None:
    for name, price in prices.items():
        if not _is_finite(price):
            raise ConfigurationError(
                f"costs[{name!r}] is {price!r}; pass a number, relative to one request to {reference!r} (1.0)"
            )
    for name, style in styles.items():
        if style not in get_args(Style):
            raise ConfigurationError(f"styles[{name!r}] is {style!r}; pass one of {', '.join(get_args(Style))}")
    for name, budget in budgets.items():
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
            raise ConfigurationError(f"example_budgets[{name!r}] is {budget!r}; pass a number of tokens, at least 0")


def _warn_of_dear_arms(prices: Mapping[str, float], reference: str) -> None:
    """Warn about arms that cost more than the reference. They are allowed: one may be better than it."""
    for name, price in prices.items():
        if price > prices[reference]:
            warn_user(
                f"costs[{name!r}] is {price:g}, more than the {prices[reference]:g} of the reference {reference!r}; so "
                f"{name!r} answers only where it is expected to be better than the reference. If these are prices, give "
                f"the reference's, too: costs={{{name!r}: {price:g}, {reference!r}: …}}"
            )


def _is_finite(price: object) -> bool:
    """True for finite numbers; booleans do not count as numbers."""
    try:
        return isinstance(price, Real) and not isinstance(price, bool) and math.isfinite(price)
    except OverflowError:
        return False


def check_shared(engine: Engine, names: Sequence[str], given: Mapping[str, object]) -> None:
    """Check that a shared engine fits the surface.

    Raises:
        ConfigurationError: It routes between other arms, or arguments are given that it has already.
    """
    _refuse_doubles(given)
    if set(engine.arms) != set(names):
        raise ConfigurationError(f"the shared engine routes between {sorted(engine.arms)}, not between {sorted(names)}")


def _refuse_doubles(given: Mapping[str, object]) -> None:
    doubled = sorted(name for name, value in given.items() if value is not None)
    if doubled:
        raise ConfigurationError(
            f"a shared engine has its own {', '.join(doubled)}; leave them out, or leave out engine="
        )
