"""What every surface offers of the engine behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared_core.adapters.context import Context
from shared_core.adapters.requests import Requests
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.records import Source
from shared_core.telemetry import Counters


class EngineOwner:
    """A surface over an engine, its own or one that it shares.

    It has an `engine`, and an `_owns_engine` that is True if `close` is to close it. They are declared for type
    checkers only: where a surface is a pydantic model, it makes fields of them itself.
    """

    if TYPE_CHECKING:
        _owns_engine: bool

        @property
        def engine(self) -> Engine:
            """The engine behind it."""

    @property
    def counters(self) -> Counters:
        """What happened, how often, failures included."""
        return self.engine.counters

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every answer and rating so far is stored; False if that takes longer than `timeout` seconds."""
        return self.engine.flush(timeout)

    def close(self) -> None:
        """Store what waits to be stored, and release the store; a shared engine stays open."""
        if self._owns_engine:
            self.engine.close()

    async def aclose(self) -> None:
        """`close` on a thread."""
        await off_loop(self.close)


class ExampleOwner(EngineOwner):
    """A surface that takes examples by hand, as (query, answer) pairs."""

    if TYPE_CHECKING:

        @property
        def _requests(self) -> Requests[Any]:
            """Reads its calls."""

    @property
    def _bound_context(self) -> Context:
        """What is bound to the surface; by default nothing."""
        return Context()

    def add_examples(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        system: str | None = None,
        scope: str | None = None,
        task: str | None = None,
        source: Source = "import",
        writer: str = "",
    ) -> Sequence[str]:
        """Put (query, answer) pairs into the pool, durably; returns their ids.

        Args:
            pairs: Queries and the answers to them.
            system: The system message that the requests come with. It names the task unless a task is given; where
                tools or a response format bind the answers, the task depends on them too: name it.
            scope: Whose examples they are; by default as a call would say.
            task: What kind of answer they show.
            source: Where they come from.
            writer: The model that wrote the answers.

        Raises:
            ConfigurationError: A text is empty, or a scope must be named and is not.
        """
        scope, task = self._requests.place(Context(scope, task).over(self._bound_context), system)
        self.engine.warm(scope)
        return self.engine.add_examples(pairs, scope=scope, task=task, source=source, writer=writer)
