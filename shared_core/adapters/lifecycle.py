"""The methods that every surface offers on its engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel
from typing_extensions import override

from shared_core.adapters.context import Context
from shared_core.adapters.requests import Requests
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.records import Source
from shared_core.sharing import Shared
from shared_core.telemetry import Counters

T = TypeVar("T")


class EngineOwner(Shared):
    """A surface with an engine, its own or a shared one.

    A copy, also a deep one, is another handle on the same engine and models; closing it leaves the engine open.

    `_owns_engine` is True if `close` closes the engine. Both attributes are declared for type checkers only, because a
    surface that is a pydantic model declares them as fields.
    """

    if TYPE_CHECKING:
        _owns_engine: bool

        @property
        def engine(self) -> Engine:
            """The surface's engine."""

    @override
    def __copy__(self) -> Self:
        inherited = BaseModel.__copy__ if isinstance(self, BaseModel) else _copied
        handle: Self = inherited(self)
        handle._owns_engine = False
        return handle

    @property
    def counters(self) -> Counters:
        """Counters of events and failures."""
        return self.engine.counters

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until earlier answers and ratings are stored; False if that takes longer than `timeout` seconds."""
        return self.engine.flush(timeout)

    def close(self) -> None:
        """Store pending answers and ratings, and close the engine; a shared engine stays open."""
        if self._owns_engine:
            self.engine.close()

    async def aclose(self) -> None:
        """`close` on a thread."""
        await off_loop(self.close)


def _copied(surface: T) -> T:
    """A shallow copy of an object that is no pydantic model."""
    handle = object.__new__(type(surface))
    handle.__dict__.update(surface.__dict__)
    return handle


class ExampleOwner(EngineOwner):
    """A surface to which examples can be added as (query, answer) pairs."""

    if TYPE_CHECKING:

        @property
        def _requests(self) -> Requests[Any]:
            """Converts its calls."""

    @property
    def _bound_context(self) -> Context:
        """The context that is bound to the surface; empty by default."""
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
        """Store (query, answer) pairs as examples, durably; returns their ids.

        Args:
            pairs: Queries and their answers.
            system: The system message of the requests, which determines the task unless `task` is given. With tools or
                a response format, the task depends on these as well: pass `task`.
            scope: The tenant; by default that of a call.
            task: The kind of answer that they show.
            source: Their origin.
            writer: The model that wrote the answers.

        Raises:
            ConfigurationError: A text is empty, or `strict_scope` is set without a scope.
            StoreIsAway: The store cannot be reached, is busy or full; nothing is stored.
        """
        advice = "pass scope=…, or use iccache_context(scope=…)"
        scope, task = self._requests.place(Context(scope, task).over(self._bound_context), system, advice)
        self.engine.warm(scope)
        return self.engine.add_examples(pairs, scope=scope, task=task, source=source, writer=writer)
