"""Example Selector (paper §4.1): which past answers help this request."""

from __future__ import annotations

from typing import Protocol

from shared_core.guard import Deadline
from shared_core.values import Request, Selection


class Selector(Protocol):
    """Chooses examples for a request."""

    def select(self, request: Request, deadline: Deadline) -> Selection:
        """At most `max_examples` examples of the request's own scope and task, the most useful first.

        Raises:
            ScopeIsCold, DependencyIsSlow, DependencyIsDown: Nothing could be chosen in time; the caller falls back.
        """
