"""Request Router (paper §4.2): which model answers a request, given the examples that it would see."""

from __future__ import annotations

from typing import Final, Protocol

from shared_core.guard import Steps
from shared_core.records import Checkpoint
from shared_core.values import Request, Route, Selection

PART: Final = "router"  # name of its checkpoint


class Router(Protocol):
    """Chooses an arm.

    Attributes:
        may_block: True if `route` may block between two steps, too. It then runs on a worker from its start, under the
            deadline. False promises that it only computes there; without an embedding it runs on the caller's thread.
    """

    may_block: bool = True

    def route(self, request: Request, selection: Selection, decision_id: str) -> Steps[Route]:
        """The arm that answers. The result depends only on state, seed and decision id, not on the order of threads.

        Raises:
            ValueError: The selection holds a value that is not finite.
        """

    def without_examples(self, request: Request) -> Route:
        """The cheapest arm known to be good enough without examples, else the reference.

        For a request whose examples came too late. Never blocks and draws nothing: the result depends only on request
        and state.
        """

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Use this checkpoint of `PART` from now on. Unreadable entries are ignored and counted."""
