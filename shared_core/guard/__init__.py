"""Guards calls that may hang or fail: bounded threads, one deadline per request, one circuit breaker per dependency.

A request is a generator that yields its calls as `Step`s (docs/decisions/0002-one-generator-of-steps.md). `Guard` runs
it; everything else only needs the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

MOST_ITEMS: Final = 16  # MiniLM then takes a third of the time an item, and a call stays well below the deadline


@dataclass(frozen=True, slots=True, eq=False)
class SharedCall:
    """A function that serves the steps of several requests in one call. Create it once for each dependency.

    Attributes:
        function: Returns a sequence with one result for each item, in order. It runs in the context variables of the
            first step.
        most: The greatest number of items in one call; fewer while calls take more than half of a deadline.
        one_at_a_time: True if a second call would only wait for the first.
    """

    function: Callable[[list[Any]], Any]
    most: int = MOST_ITEMS
    one_at_a_time: bool = False

    def step(self, dependency: str, item: object) -> Step:
        """The step that gets the result for `item`."""
        return Step(dependency, partial(self._alone, item), self, item)

    def results(self, items: list[Any]) -> Sequence[Any]:
        """One result for each of `items`.

        Raises:
            ValueError: The function returned more or fewer.
        """
        results: Sequence[Any] = self.function(items)
        if len(results) != len(items):
            raise ValueError(f"a call for {len(items)} items returned {len(results)} results; expected one for each")
        return results

    def _alone(self, item: object) -> object:
        return self.results([item])[0]


class Step(NamedTuple):
    """A call that may hang or fail, and the name of its dependency.

    Attributes:
        dependency: Its name in errors. Each dependency has its own slots.
        call: Makes the call.
        shared: Makes it together with other waiting steps that have the same `SharedCall`; None if it cannot.
        item: What the shared call gets for this step.
    """

    dependency: str
    call: Callable[[], object]
    shared: SharedCall | None = None
    item: object = None


Steps: TypeAlias = Generator[Step, Any, T]
"""The generator of a request: it yields steps, gets the result of each, and returns its own. Every call that may block
is a step; between two steps there is only computation."""


def immediately(value: T) -> Steps[T]:
    """Steps without a call, for local implementations of a protocol whose remote ones would yield calls."""
    return value
    yield  # makes this a generator
