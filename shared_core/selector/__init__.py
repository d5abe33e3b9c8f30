"""Example Selector (paper §4.1): which past answers to show with this request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared_core.guard import Steps
from shared_core.pool import Candidates
from shared_core.records import Texts
from shared_core.values import Arm, Request, Selection


class Selector(Protocol):
    """Chooses examples for a request."""

    def select(self, request: Request, arms: Sequence[Arm]) -> Steps[Selection]:
        """For each of `arms`, at most `max_examples` examples within its budget, the most useful first.

        All examples have the request's scope and task. An arm that uses no examples gets none.

        Raises:
            ScopeIsCold: The examples of this scope are still being loaded.
            Exception: An error of the embedder or the store.
        """


class Utility(Protocol):
    """Stage 2: how much each candidate would help each arm."""

    @property
    def needs_texts(self) -> bool:
        """True if `score` needs the candidates' texts. The selector then reads them before the choice."""

    def score(
        self, request: Request, found: Candidates, texts: Mapping[str, Texts], arms: Sequence[Arm]
    ) -> NDArray[np.float32]:
        """Utilities in [0, 1], of shape (arms, candidates).

        Args:
            request: The request.
            found: The k candidates of stage 1.
            texts: Their texts by id if `needs_texts`, without those deleted meanwhile; else empty.
            arms: The arms that use examples.
        """
