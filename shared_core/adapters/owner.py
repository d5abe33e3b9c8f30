"""What every surface offers of the engine behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared_core.adapters.offloop import off_loop
from shared_core.engine import Engine
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
