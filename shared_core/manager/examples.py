"""Creates, adds, deletes and evicts the examples of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from shared_core.errors import ConfigurationError, EmbedderDiffers, kind_of, shown
from shared_core.inference import Embedder
from shared_core.manager.admission import POOR_SCORE
from shared_core.manager.decision_record import exact_key_of
from shared_core.manager.privacy import Redact, redacted
from shared_core.records import Entry, Example, Source, Statistics, Texts, Vector, WaitingAnswer
from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.text import digest, fold
from shared_core.values import Clock, Decision, Outcome


class Examples:
    """The examples of one store.

    Args:
        store: Holds the examples.
        embedder: Turns queries into vectors; None creates no examples.
        settings: `max_pool` is used.
        clock: Seconds since the epoch.
        redact: Applied to every text before it is embedded or stored.
    """

    def __init__(
        self, store: Store, embedder: Embedder | None, settings: Settings, clock: Clock, redact: Redact | None = None
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._settings = settings
        self._clock = clock
        self._redact = redact

    def add(
        self, pairs: Sequence[tuple[str, str]], *, scope: str, task: str, source: Source, writer: str
    ) -> Sequence[str]:
        """Store (query, answer) pairs durably, embedded in one batch; returns their ids in order.

        An example with the same query is replaced, because imports and corrections are meant to be right.

        Raises:
            ConfigurationError: There is no embedder, a text is empty, or an argument is of another kind.
            EmbedderDiffers: The pool was written with another embedder.
        """
        if self._embedder is None:
            raise ConfigurationError("examples need an embedder; pass embedder= to the constructor")
        _check_pairs(pairs, source)
        texts = [Texts(redacted(query, self._redact), redacted(answer, self._redact)) for query, answer in pairs]
        vectors = self._embedder.embed([t.query for t in texts])
        claim_embedder(self._store, self._embedder)
        now = self._clock()
        examples = [
            example_of(t, vector, scope=scope, task=task, source=source, writer=writer, now=now)
            for t, vector in zip(texts, vectors, strict=True)
        ]
        self._store.put(examples)
        self.keep_within_limit(scope)
        return [example.entry.id for example in examples]

    @property
    def can_be_made(self) -> bool:
        """False without an embedder."""
        return self._embedder is not None

    def is_ready(self, decision: Decision) -> bool:
        """True if the answer to a decision needs neither redaction nor embedding, so `of_answers` takes no time."""
        return self._redact is None and decision.selection.vector is not None

    def of_answers(self, answers: Sequence[tuple[Decision, Outcome]]) -> Sequence[Example]:
        """The examples that these answers may become; nothing is stored.

        Raises:
            RedactionFailed: The redaction function failed for one of them.
        """
        texts = [self._texts(decision, outcome) for decision, outcome in answers]
        vectors = self._vectors([decision.selection.vector for decision, _ in answers], texts)
        now = self._clock()
        return [
            example_of(
                t,
                vector,
                scope=decision.request.scope,
                task=decision.request.task,
                source="traffic",
                writer=outcome.writer or decision.arm,
                now=now,
                exact_key=exact_key_of(decision, outcome),
            )
            for (decision, outcome), t, vector in zip(answers, texts, vectors, strict=True)
        ]

    def waiting(self, decision_id: str, example: Example) -> WaitingAnswer:
        """The answer to a decision, as it waits for feedback; `example` is what it would become."""
        tag = self._embedder.tag if self._embedder else ""
        return WaitingAnswer(decision_id, example.entry, example.texts, tag, example.vector)

    def claim_pool(self) -> None:
        """Register our embedder as the pool's, or check that it is.

        Raises:
            EmbedderDiffers: The pool was written with another embedder.
        """
        if self._embedder is not None:
            claim_embedder(self._store, self._embedder)

    def known(self, examples: Sequence[Example]) -> set[tuple[str, str]]:
        """Of these examples, the (scope, id) of those to whose query the pool has a good answer."""
        ids: dict[str, list[str]] = {}
        for example in examples:
            ids.setdefault(example.entry.scope, []).append(example.entry.id)
        rows = [row for scope, listed in ids.items() for row in self._store.rows(scope, list(dict.fromkeys(listed)))]
        return {(row.entry.scope, row.entry.id) for row in rows if _is_good(row.entry.statistics)}

    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Delete examples and their exact answers durably; returns how many existed."""
        return self._store.delete(scope, ids)

    def clear(self, scope: str | None = None) -> int:
        """Delete examples, exact and waiting answers and decisions of a scope, or of all; returns the number of examples."""
        return self._store.clear(scope)

    def keep_within_limit(self, scope: str) -> int:
        """Evict the oldest examples beyond `max_pool`; returns how many."""
        excess = self._store.count(scope) - self._settings.max_pool
        return self._store.delete(scope, self._store.oldest(scope, excess)) if excess > 0 else 0

    def keep_within_limits(self) -> int:
        """`keep_within_limit` of every scope."""
        return sum(self.keep_within_limit(scope) for scope in self._store.scopes())

    def _texts(self, decision: Decision, outcome: Outcome) -> Texts:
        query = decision.request.query  # with a vector, it was redacted before; twice might change it again
        if decision.selection.vector is None:
            query = redacted(query, self._redact)
        return Texts(query, redacted(outcome.answer, self._redact))

    def _vectors(self, known: Sequence[Vector | None], texts: Sequence[Texts]) -> Sequence[Vector]:
        """The vectors of the queries; those that are not known are embedded in one batch."""
        if self._embedder is None:
            raise ConfigurationError("examples need an embedder; pass embedder= to the constructor")
        missing = [t.query for vector, t in zip(known, texts, strict=True) if vector is None]
        embedded = iter(self._embedder.embed(missing)) if missing else iter(())
        return [next(embedded) if vector is None else vector for vector in known]


def _check_pairs(pairs: object, source: object) -> None:
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise ConfigurationError(f"the examples are {kind_of(pairs)}; pass a list of pairs (query, answer)")
    for number, pair in enumerate(pairs, 1):
        parts = list(pair) if isinstance(pair, tuple | list) else []
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            found = f"{kind_of(pair)} of {', '.join(map(kind_of, parts))}" if parts else kind_of(pair)
            raise ConfigurationError(f"example {number} is {found}; pass a pair of two texts, (query, answer)")
        if not all(text.strip() for text in pair):
            raise ConfigurationError(f"example {number} has an empty query or answer; both must be non-empty")
    if source not in get_args(Source):
        raise ConfigurationError(f"source is {shown(source)}; pass one of {', '.join(get_args(Source))}")


def _is_good(statistics: Statistics) -> bool:
    quality = statistics.quality
    return quality.count == 0 or quality.value >= POOR_SCORE


def example_id(scope: str, task: str, query: str) -> str:
    """32 hex digits; equal for equal queries (except for white space) of one scope and task."""
    return digest([scope, task, fold(query)])[:32]


def example_of(
    texts: Texts,
    vector: Vector,
    *,
    scope: str,
    task: str,
    source: Source,
    writer: str,
    now: float,
    exact_key: str = "",
) -> Example:
    """The example with these texts.

    Args:
        texts: Query and answer, redacted.
        vector: Unit embedding of the query, of shape (dimension,).
        scope: Its tenant.
        task: The task in which it may be shown.
        source: Its origin.
        writer: The model that wrote the answer.
        now: Seconds since the epoch.
        exact_key: Key of the exact answer that was stored with it, if any; the two are deleted together.
    """
    entry = Entry(
        id=example_id(scope, task, texts.query),
        scope=scope,
        task=task,
        source=source,
        writer=writer,
        created_at=now,
        size=texts.size,
        exact_key=exact_key,
    )
    return Example(entry, texts, vector)


def claim_embedder(store: Store, embedder: Embedder) -> None:
    """Register `embedder` as the pool's embedder, or check that it is.

    Raises:
        EmbedderDiffers: The pool was written with another embedder.
    """
    claimed = store.claim("embedder", embedder.tag)
    if claimed != embedder.tag:
        raise EmbedderDiffers(claimed, embedder.tag)
