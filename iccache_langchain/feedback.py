"""Feedback on an answer that is a LangChain message."""

from __future__ import annotations

from uuid import UUID

from langchain_core.messages import BaseMessage

from iccache_langchain.messages import decision_id_of
from shared_core.adapters.lifecycle import EngineOwner


class Rateable(EngineOwner):
    """A surface whose answers can be rated."""

    def record_feedback(self, answer: BaseMessage | UUID | str, score: float, rater: str = "user") -> None:
        """Rate an answer in [0, 1], by its message, by the run id of the model's call, or by its decision id.

        Does not wait. The run id of the chain or agent does not work. An answer with a poor rating is not served again
        for identical calls.

        Raises:
            ConfigurationError: The score is not within [0, 1], or the answer is neither a message nor an id.
            NotFromICCache: The message did not come through IC-Cache.
        """
        self.engine.submit_feedback(decision_id_of(answer), score, rater)
