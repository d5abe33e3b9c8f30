"""The event with which `ICCacheLLM` reports its decision about a call."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent


class ICCacheRouteEvent(BaseEvent):
    """Sent once per call of `ICCacheLLM`, after the model's own events, when the answer ends or its reader stops.

    Attributes:
        provenance: The answer's ``additional_kwargs["iccache"]``: decision id, arm, reason, examples, scores.
    """

    provenance: dict[str, object]

    @classmethod
    def class_name(cls) -> str:
        """The name of the event."""
        return "ICCacheRouteEvent"
