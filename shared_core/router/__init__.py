"""Request Router (paper §4.2): which model answers this request, given the examples that it would see."""

from __future__ import annotations

from typing import Protocol

from shared_core.guard import Steps
from shared_core.records import Checkpoint
from shared_core.values import Request, Route, Selection


class Router(Protocol):
    """Chooses an arm."""

    def route(self, request: Request, selection: Selection, decision_id: str) -> Steps[Route]:
        """The arm that answers. Equal state, seed and decision id give the equal route, in any thread order.

        Raises:
            ValueError: The selection holds a value that is not finite.
        """

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Use what the learner published from now on. What cannot be read is ignored, and counted."""
