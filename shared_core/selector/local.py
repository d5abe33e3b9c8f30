"""The Example Selector in this process (paper §4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shared_core.guard import SharedCall, Steps
from shared_core.inference import Embedder
from shared_core.pool import Candidates, Pool
from shared_core.prompt import within_budget
from shared_core.records import Texts
from shared_core.selector import Selector, Utility
from shared_core.selector.combination import by_utility, without_duplicates
from shared_core.selector.utility import SimilarityUtility
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Arm, Considered, Request, ScoredExample, Selection


class _Choice(NamedTuple):
    """A candidate chosen for an arm."""

    id: str
    similarity: float
    utility: float


class LocalSelector(Selector):
    """A `Selector` that filters candidates by a similarity quantile and ranks them by their utility for each arm.

    An empty query is not embedded, and gets an empty selection.

    Args:
        embedder: Turns the query into a unit vector; queries that wait at the same time share one call.
        pool: Finds candidates (stage 1) and their texts.
        settings: `candidates`, `max_examples`, `example_tokens`, `relevance_quantile`, `duplicate_similarity` are used.
        counters: Counts ``bypass.empty_query``.
        utility: Stage 2; by default `SimilarityUtility`.
    """

    def __init__(
        self,
        embedder: Embedder,
        pool: Pool,
        settings: Settings,
        counters: Counters,
        utility: Utility | None = None,
    ) -> None:
        self._embed = SharedCall(embedder.embed, one_at_a_time=getattr(embedder, "one_at_a_time", False))
        self._pool = pool
        self._settings = settings
        self._counters = counters
        self._utility: Utility = utility or SimilarityUtility()

    @override
    def select(self, request: Request, arms: Sequence[Arm]) -> Steps[Selection]:
        if not request.query.strip():
            self._counters.count("bypass.empty_query")
            return Selection()
        vector = yield self._embed.step("embedder", request.query)
        shown = [arm for arm in arms if arm.uses_examples]
        if not shown or self._settings.max_examples == 0:
            return Selection(vector=vector)
        scope, task = request.scope, request.task
        found = yield from self._pool.candidates(scope, task, vector, self._settings.candidates)
        threshold = yield from self._pool.similarity_quantile(scope, task, self._settings.relevance_quantile)
        texts = (yield from self._pool.texts(scope, found.ids)) if self._utility.needs_texts and found.ids else {}
        utilities = self._utility.score(request, found, texts, shown)
        chosen = {arm.name: self._chosen(found, row, threshold) for arm, row in zip(shown, utilities, strict=True)}
        wanted = dict.fromkeys(c.id for choices in chosen.values() for c in choices if c.id not in texts)
        if wanted:
            texts = {**texts, **(yield from self._pool.texts(scope, tuple(wanted)))}
        return Selection(
            by_arm={arm.name: self._within_budget(arm, chosen[arm.name], texts) for arm in shown},
            considered=len(found.ids),
            threshold=threshold,
            vector=vector,
            candidates=Considered(found.ids, found.similarity, tuple(chosen), utilities),
        )

    def _chosen(self, found: Candidates, utility: NDArray[np.float32], threshold: float) -> list[_Choice]:
        """The chosen candidates, the most useful first."""
        worth = ((found.similarity >= threshold) & (found.statistics["quality"] > 0)).tolist()
        order = [i for i in by_utility(utility, found.similarity, found.ids) if worth[i]]
        chosen = without_duplicates(
            found.vectors, order, self._settings.duplicate_similarity, self._settings.max_examples
        )
        similarities, utilities = found.similarity.tolist(), utility.tolist()
        return [_Choice(found.ids[i], max(-1.0, min(1.0, similarities[i])), utilities[i]) for i in chosen]

    def _within_budget(
        self, arm: Arm, chosen: Sequence[_Choice], texts: Mapping[str, Texts]
    ) -> tuple[ScoredExample, ...]:
        """The examples that fit into the arm's budget, without those deleted meanwhile."""
        scored = [
            ScoredExample(choice.id, choice.similarity, choice.utility, texts[choice.id].query, texts[choice.id].answer)
            for choice in chosen
            if choice.id in texts
        ]
        budget = self._settings.example_tokens if arm.example_tokens is None else arm.example_tokens
        return within_budget(scored, budget)
