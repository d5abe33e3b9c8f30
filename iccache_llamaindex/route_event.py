"""The event by which `ICCacheLLM` tells observers how an answer came about."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent


class ICCacheRouteEvent(BaseEvent):
    """Sent once a call of `ICCacheLLM`, the model's own events behind it, when the answer has ended or was left.

    Attributes:
        provenance: What the answer holds as ``additional_kwargs["iccache"]``: decision id, arm, reason, examples, scores.
    """

    provenance: dict[str, object]

    @classmethod
    def class_name(cls) -> str:
        """The name of the event."""
        return "ICCacheRouteEvent"
