"""The Example Selector in this process (paper §4.1)."""

from __future__ import annotations

from functools import partial

from shared_core.guard import Deadline, Guard, Step, Steps
from shared_core.inference import Embedder
from shared_core.pool import Candidates, Pool
from shared_core.prompt import within_budget
from shared_core.selector.combination import by_utility, without_duplicates
from shared_core.selector.relevance import utility
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
        return self._guard.run(deadline, self._steps(request))

    def _steps(self, request: Request) -> Steps[Selection]:
        vector = (yield Step("embedder", partial(self._embedder.embed, [request.query])))[0]
        if self._settings.max_examples == 0:
            return Selection(vector=vector)
        found = self._pool.candidates(request.scope, request.task, vector, self._settings.candidates)
        threshold = self._pool.similarity_quantile(request.scope, request.task, self._settings.relevance_quantile)
        chosen = self._chosen(found, threshold)
        ids = [example for example, _, _ in chosen]
        texts = (yield from self._pool.texts(request.scope, ids)) if ids else {}
        scored = [  # those deleted meanwhile are left out
            ScoredExample(example, similarity, useful, texts[example].query, texts[example].answer)
            for example, similarity, useful in chosen
            if example in texts
        ]
        return Selection(
            examples=within_budget(scored, self._settings.example_tokens),
            considered=len(found.ids),
            threshold=threshold,
            vector=vector,
        )

    def _chosen(self, found: Candidates, threshold: float) -> list[tuple[str, float, float]]:
        """Id, similarity and utility of the candidates worth showing, the most useful first."""
        scores = utility(found.similarity, found.quality)
        worth = ((found.similarity >= threshold) & (found.quality > 0)).tolist()
        order = [i for i in by_utility(scores, found.similarity, found.ids) if worth[i]]
        chosen = without_duplicates(
            found.vectors, order, self._settings.duplicate_similarity, self._settings.max_examples
        )
        similarity, useful = found.similarity.tolist(), scores.tolist()
        return [(found.ids[i], max(-1.0, min(1.0, similarity[i])), useful[i]) for i in chosen]
