"""What every surface offers of the engine behind it."""

from __future__ import annotations

from uuid import UUID

from langchain_core.messages import BaseMessage

from iccache_langchain.messages import decision_id_of
from shared_core.adapters.offloop import off_loop
from shared_core.engine import Engine


class EngineOwner:
    """A surface over an engine, its own or one that it shares.

    Args:
        engine: The engine.
        owns: True if `close` closes it.
    """

    def __init__(self, engine: Engine, *, owns: bool) -> None:
        self.engine = engine
        self._owns_engine = owns

    def record_feedback(self, answer: BaseMessage | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1]: by its message, its run id, or its decision id. Does not wait.

        Raises:
            SettingIsWrong: The score is not within [0, 1], or the message did not come through IC-Cache.
        """
        self.engine.submit_feedback(decision_id_of(answer), score, rater)

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
