"""The constructor options that surfaces have in common, typed, described and read once.

A surface takes them as ``**options: Unpack[…]``. None stands for what is not given.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from shared_core.adapters.context import Context
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.manager.privacy import Redact
from shared_core.reward import Reward
from shared_core.settings import Settings, read_settings
from shared_core.store.protocol import Store
from shared_core.values import Style


class SettingsOptions(TypedDict, total=False):
    """Each field of `Settings` as an argument of its own; docs/settings.md says what they do and why."""

    candidates: int
    max_examples: int
    example_tokens: int
    relevance_quantile: float
    duplicate_similarity: float
    quality_target: float
    cost_weight: float
    confidence: float
    explore: float
    seed: int
    max_pool: int
    exact_ttl: float
    decision_ttl: float
    trust_feedback: float
    deadline: float
    workers: int
    refresh: float
    learn_every: float
    drain: float


class EngineOptions(SettingsOptions, total=False):
    """What every surface takes, and how its engine is made.

    Attributes:
        embedder: Turns texts into vectors: a hub id, a folder, a LangChain `Embeddings`, a LlamaIndex `BaseEmbedding`,
            or a callable from a list of texts to rows of numbers. By default all-MiniLM-L6-v2.
        redact: A function over every text before it is embedded or stored. Where it fails, nothing is stored.
        settings: Every other knob. Each field of `Settings` may also be given as an argument of its own.
        engine: Share the engine of another surface. It brings its own store, embedder, redact, reward, settings,
            costs, styles and example_budgets, which are refused beside it.
        scope: Whose calls these are where neither the call nor `iccache_context` says so. Examples and answers of
            different scopes never mix.
        strict_scope: Refuse calls that name no scope. Excludes `scope`.
        task: What kind of answer is wanted, where neither the call nor `iccache_context` says so. By default a hash of
            system message, tools, response format and whatever else binds the answer.

    Raises:
        ConfigurationError: The arguments contradict each other, or one of them is unknown.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
        ExtraIsMissing: faiss, redis or sentence-transformers is needed and not installed.
    """

    embedder: object | None
    redact: Redact | None
    settings: Settings | None
    engine: Engine | None
    scope: str | None
    strict_scope: bool
    task: str | None


class RoutingOptions(EngineOptions, total=False):
    """What the surfaces take that choose between models, beside `EngineOptions`.

    Attributes:
        costs: Cost of a request by arm, relative to the reference (1.0 unless given); required for every other arm.
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``) or an open store; ``sqlite:///iccache.db`` if left
            out.
        reward: Scores (request, answer) in [0, 1], or None for no opinion; `request.query` is the text that was asked.
            Runs off the request path. Where it fails, the answer is kept without a score.
        styles: How examples are rendered for an arm: ``"chat"`` (default) or ``"paper"``.
        example_budgets: Estimated tokens of all examples of a prompt together, by arm; by default `example_tokens` of
            the settings.
        background: False starts no loops; call ``engine.maintain()`` yourself.
    """

    costs: Mapping[str, float] | None
    store: Store | str | None
    reward: Reward | None
    styles: Mapping[str, Style] | None
    example_budgets: Mapping[str, int] | None
    background: bool


@dataclass(frozen=True, slots=True)
class Given:
    """A surface's keyword arguments, by whom they concern.

    Attributes:
        engine: How its engine is made; what was not given, or is None, is left out.
        scope: Whose calls these are.
        strict_scope: Refuse calls that name no scope.
        task: What kind of answer is wanted.
        base: Fields of the framework's base class.
    """

    engine: Mapping[str, Any]
    scope: str | None
    strict_scope: bool
    task: str | None
    base: Mapping[str, Any]


def read_options(
    options: Mapping[str, Any], kind: type[EngineOptions], surface: str, fields: Collection[str] = ()
) -> Given:
    """Tell the arguments of a surface apart, and refuse what contradicts itself, before a store is opened.

    Args:
        options: The arguments.
        kind: `EngineOptions` or `RoutingOptions`, whichever the surface takes.
        surface: Its name, for messages.
        fields: Fields of the framework's base class, which it takes too.

    Raises:
        ConfigurationError: An argument is unknown, a setting out of range, or scope and strict_scope are both given.
    """
    known = kind.__annotations__.keys()
    for name in sorted(options.keys() - known - set(fields)):
        near = difflib.get_close_matches(name, [*known, *fields], 1)
        raise ConfigurationError(f"{surface} takes no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    settings = SettingsOptions.__annotations__.keys()
    ours = {name: value for name, value in options.items() if name in known - settings}
    scope, strict_scope, task = ours.pop("scope", None), ours.pop("strict_scope", False), ours.pop("task", None)
    _check_scope(scope, task, strict_scope=strict_scope)
    engine = {name: value for name, value in ours.items() if value is not None}
    if knobs := {name: value for name, value in options.items() if name in settings}:
        engine["settings"] = with_knobs(engine.get("settings"), knobs)
    return Given(engine, scope, strict_scope, task, {n: v for n, v in options.items() if n not in known})


def with_knobs(settings: Settings | None, knobs: Mapping[str, Any]) -> Settings:
    """The settings with single knobs on top.

    Raises:
        ConfigurationError: A value is out of range, or the environment or iccache.toml cannot be used.
    """
    given = settings.model_dump(exclude_unset=True) if settings else {}
    return read_settings(**{**given, **knobs})


def _check_scope(scope: str | None, task: str | None, *, strict_scope: bool) -> None:
    """Refuse an empty scope or task, and a scope that would never be used."""
    Context(scope, task)
    if strict_scope and scope is not None:
        raise ConfigurationError("scope= has no effect with strict_scope=True; pass only one")
