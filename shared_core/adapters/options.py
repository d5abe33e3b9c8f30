"""The constructor options that surfaces share: typed, documented and read in one place.

A surface takes them as ``**options: Unpack[…]``. None has the same effect as leaving an option out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from shared_core.adapters.context import Context
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, kind_of, shown
from shared_core.inference.embedders import EmbedderLike
from shared_core.manager.privacy import Redact
from shared_core.reward import Reward
from shared_core.settings import Settings, check_settings
from shared_core.store.address import StoreLike
from shared_core.values import Style


class SettingsOptions(TypedDict, total=False):
    """Each field of `Settings` as a separate argument; docs/settings.md has their defaults.

    Attributes:
        candidates: Candidates of stage 1; three times the examples shown.
        max_examples: Examples in a prompt; 5 is the paper's usual count.
        example_tokens: Estimated tokens of all examples of a prompt together.
        relevance_quantile: A candidate must be more similar than this share of the pool's random pairs. A quantile,
            because the same cosine means different things with different embedders and pools.
        duplicate_similarity: Of two chosen examples this similar to each other, one is dropped.
        quality_target: Share of the reference arm's expected reward that another arm must reach.
        cost_weight: Reward that one unit of relative cost is worth. High, because the quality guard has already
            excluded every arm that is not good enough; of the others, the cheaper one should win.
        confidence: Standard deviations that the quality guard subtracts from an arm's mean. The router assumes the
            largest noise that a reward can have, about twice the real one, so 0.5 is about one real deviation.
        explore: Share of requests with examples that go to little-known arms, to learn about them.
        seed: Seed of every random draw; equal seed and state give equal decisions.
        max_pool: Examples per scope; the oldest are evicted first.
        exact_ttl: Seconds for which an exact answer may be served.
        decision_ttl: Seconds for which a decision is kept and feedback on it accepted.
        log_records: Decision records per scope, 3 kB each (4 kB in SQLite); the oldest beyond that are deleted within a
            minute. Enough to train on, and for feedback that comes hours later at 10 requests a second.
        log_vectors: Keep each request's vector in its decision record; SECURITY.md says what it gives away.
        trust_feedback: Reward from which an answer of another arm than the reference may become an example.
        wait_ttl: Seconds for which such an answer waits for its feedback in the store, as plain text. Two days, so a
            nightly job can rate all of the day before.
        wait_answers: Such answers per scope, the oldest leave first; a tenth of `max_pool`. 0 keeps none: then only
            answers of the reference become examples.
        wait_mb: Megabytes of such answers per scope; 10,000 of a usual length (2 kB of texts, 2 kB of vector) take 40.
        deadline: Seconds by which IC-Cache may delay a request, all steps together.
        workers: Threads per dependency (embedder, store) for calls on the request path.
        refresh: Seconds between reads of the change feed and the checkpoint.
        learn_every: Seconds between rounds of the background learner.
        score_threads: Calls of the reward function at once; 1 if it must not be called in parallel.
        drain: Seconds that flush, close and exit wait for pending records.
    """

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
    log_records: int
    log_vectors: bool
    trust_feedback: float
    wait_ttl: float
    wait_answers: int
    wait_mb: int
    deadline: float
    workers: int
    refresh: float
    learn_every: float
    score_threads: int
    drain: float


class EngineOptions(SettingsOptions, total=False):
    """The options of every surface; most of them configure its engine.

    Attributes:
        embedder: Turns texts into vectors: a hub id, a folder, a LangChain `Embeddings`, a LlamaIndex `BaseEmbedding`,
            or a callable from a list of texts to rows of numbers. By default all-MiniLM-L6-v2.
        redact: A function over every text before it is embedded or stored. If it fails, nothing is stored.
        settings: Every other option. Each field of `Settings` can also be passed as a separate argument.
        engine: Share the engine of another surface. It has its own store, embedder, redact, reward, settings, costs,
            styles and example_budgets, so these cannot be passed with it.
        scope: The tenant, if neither the call nor `iccache_context` sets one. Examples and answers of different scopes
            never mix.
        strict_scope: Refuse calls without a scope. Cannot be combined with `scope`.
        task: The kind of answer wanted, if neither the call nor `iccache_context` sets it. By default a hash of system
            message, tools, response format and other parameters that determine the answer's form.

    Raises:
        ConfigurationError: The arguments contradict each other, or one is unknown.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
        ExtraIsMissing: faiss, redis or sentence-transformers is needed and not installed.
    """

    embedder: EmbedderLike | None
    redact: Redact | None
    settings: Settings | None
    engine: Engine | None
    scope: str | None
    strict_scope: bool
    task: str | None


class RoutingOptions(EngineOptions, total=False):
    """The options of surfaces that choose between models: those of `EngineOptions`, and these.

    Attributes:
        costs: Cost of a request by arm, relative to the reference (default 1.0); required for every other arm. An arm that
            costs more than the reference answers only where it is expected to be better; a warning says so.
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; by default
            ``sqlite:///iccache.db``.
        reward: Scores (request, answer) in [0, 1], or returns None for no opinion; `request.query` is the question's
            text. A function or a coroutine function. Runs off the request path, on up to `score_threads` threads at
            once. If it fails, the answer is stored without a score.
        styles: How examples are rendered, by arm: ``"chat"`` (default) or ``"paper"``.
        example_budgets: Budget of all examples in a prompt together, in estimated tokens, by arm; by default the
            setting `example_tokens`.
        background: False starts no background loops; call ``engine.maintain()`` yourself.
    """

    costs: Mapping[str, float] | None
    store: StoreLike | None
    reward: Reward | None
    styles: Mapping[str, Style] | None
    example_budgets: Mapping[str, int] | None
    background: bool


@dataclass(frozen=True, slots=True)
class ParsedOptions:
    """A surface's keyword arguments, by destination.

    Attributes:
        engine: Arguments of the engine; those that are absent or None are left out.
        scope: The surface's scope.
        strict_scope: Refuse calls without a scope.
        task: The surface's task.
        base: Fields of the framework's base class.
    """

    engine: Mapping[str, Any]
    scope: str | None
    strict_scope: bool
    task: str | None
    base: Mapping[str, Any]

    @property
    def owns_engine(self) -> bool:
        """True if the surface builds its engine, and so closes it."""
        return "engine" not in self.engine


def read_options(options: Mapping[str, Any], kind: type[EngineOptions]) -> ParsedOptions:
    """Split the arguments of a surface, and refuse contradictions before a store is opened.

    Args:
        options: The arguments. Those that `kind` lacks are fields of the framework's base class.
        kind: The surface's options: `EngineOptions` or `RoutingOptions`.

    Raises:
        ConfigurationError: A setting is out of range, an option is of the wrong kind, or scope and strict_scope are both
            given.
    """
    known, settings = kind.__annotations__.keys(), SettingsOptions.__annotations__.keys()
    ours = {name: value for name, value in options.items() if name in known - settings}
    _check_kinds(ours)
    scope, strict_scope, task = ours.pop("scope", None), ours.pop("strict_scope", False), ours.pop("task", None)
    _check_scope(scope, task, strict_scope=strict_scope)
    engine = {name: value for name, value in ours.items() if value is not None}
    if knobs := {name: value for name, value in options.items() if name in settings}:
        engine["settings"] = with_knobs(engine.get("settings"), knobs)
    return ParsedOptions(engine, scope, strict_scope, task, {n: v for n, v in options.items() if n not in known})


def with_knobs(settings: Settings | None, knobs: Mapping[str, Any]) -> Settings:
    """The settings with single values replaced.

    Raises:
        ConfigurationError: A value is out of range, or the environment or iccache.toml is invalid.
    """
    given = settings.model_dump(exclude_unset=True) if settings else {}
    return Settings(**{**given, **knobs})


def _check_kinds(options: Mapping[str, object]) -> None:
    """Refuse an engine, settings or switch of another kind; the engine checks the other options."""
    engine = options.get("engine")
    if not isinstance(engine, Engine | None):
        raise ConfigurationError(f"engine is {kind_of(engine)}; pass the engine of a surface, such as llm.engine")
    check_settings(options.get("settings"))
    for name in ("strict_scope", "background"):
        if not isinstance(options.get(name), bool | None):
            raise ConfigurationError(f"{name} is {shown(options[name])}; pass True or False")


def _check_scope(scope: str | None, task: str | None, *, strict_scope: bool) -> None:
    """Refuse an empty scope or task, and a scope without effect."""
    Context(scope, task)
    if strict_scope and scope is not None:
        raise ConfigurationError("scope= has no effect with strict_scope=True; pass only one")
