"""The Example Selector in this process (paper §4.1)."""

from __future__ import annotations

import numpy as np

from shared_core.guard import Deadline, Guard
from shared_core.inference import Embedder
from shared_core.pool import Candidates, Pool
from shared_core.prompt import within_budget
from shared_core.selector.combination import by_utility, without_duplicates
from shared_core.selector.relevance import quality_weight, utility
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Request, ScoredExample, Selection


class LocalSelector:
    """Chooses examples by similarity and quality above a quantile threshold; see `Selector`."""

    def __init__(self, embedder: Embedder, pool: Pool, guard: Guard, settings: Settings, counters: Counters) -> None:
        self._embedder = embedder
        self._pool = pool
        self._guard = guard
        self._settings = settings
        self._counters = counters

    def select(self, request: Request, deadline: Deadline) -> Selection:
        """At most `max_examples` examples of the request's own scope and task, the most useful first.

        An empty query is not embedded, and gets an empty selection.

        Raises:
            ScopeIsCold, DependencyIsSlow, DependencyIsDown: Nothing could be chosen in time; the caller falls back.
            Exception: Whatever the embedder raised.
        """
        if not request.query.strip():
            self._counters.add("bypass.empty_query")
            return Selection()
        vector = self._guard.call("embedder", deadline, self._embedder.embed, [request.query])[0]
        if self._settings.max_examples == 0:
            return Selection(vector=vector)
        found = self._pool.candidates(request.scope, request.task, vector, self._settings.candidates)
        threshold = self._pool.similarity_quantile(request.scope, request.task, self._settings.relevance_quantile)
        scored = self._with_texts(request.scope, self._chosen(found, threshold), deadline)
        return Selection(
            examples=within_budget(scored, self._settings.example_tokens),
            considered=len(found.ids),
            threshold=threshold,
            vector=vector,
        )

    def _chosen(self, found: Candidates, threshold: float) -> tuple[ScoredExample, ...]:
        """The candidates worth showing, without texts, the most useful first."""
        scores = utility(found.similarity, found.quality)
        worth = (found.similarity >= threshold) & (quality_weight(found.quality) > 0)
        order = [i for i in by_utility(scores, found.similarity, found.ids) if worth[i]]
        chosen = without_duplicates(
            found.vectors, order, self._settings.duplicate_similarity, self._settings.max_examples
        )
        return tuple(
            ScoredExample(found.ids[i], float(np.clip(found.similarity[i], -1, 1)), float(scores[i]), "", "")
            for i in chosen
        )

    def _with_texts(
        self, scope: str, chosen: tuple[ScoredExample, ...], deadline: Deadline
    ) -> tuple[ScoredExample, ...]:
        """`chosen` with their texts; those deleted meanwhile are left out."""
        if not chosen:
            return ()
        texts = self._pool.texts(scope, [c.id for c in chosen], deadline)
        return tuple(
            ScoredExample(c.id, c.similarity, c.utility, texts[c.id].query, texts[c.id].answer)
            for c in chosen
            if c.id in texts
        )
