"""Removes the examples' node from the sources of an answer.

A synthesizer lists every node it got as a source. Its last event carries the response before anyone else sees it. At
that point the node is removed from the query engine's response and from the list that a chat engine returns.
"""

from __future__ import annotations

from typing import Any, Final

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent
from llama_index.core.schema import NodeWithScore

from iccache_llamaindex.handover import Handover, current
from shared_core.telemetry import get_logger

log = get_logger("llamaindex")

ROLE: Final = "iccache_role"


def is_example(node: NodeWithScore) -> bool:
    """True if the node holds examples, not a document."""
    return node.node.metadata.get(ROLE) == "example"


def clean_sources() -> BaseEventHandler:
    """The handler for LlamaIndex's root dispatcher."""
    return _SourceCleaner()


class _SourceCleaner(BaseEventHandler):
    @classmethod
    def class_name(cls) -> str:
        return "ICCacheSourceCleaner"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        handover = current.get()
        if not isinstance(event, SynthesizeEndEvent) or handover is None:
            return
        handover.answered = True
        if handover.returned_nodes is not None:
            _clean(event.response, handover.returned_nodes)
            handover.returned_nodes = None
        if handover.by_prompt and handover.decision.given and not handover.shown:
            _warn_once(handover)


def _clean(response: RESPONSE_TYPE, returned_nodes: list[NodeWithScore]) -> None:
    for node in filter(is_example, response.source_nodes):
        (response.metadata or {}).pop(node.node.node_id, None)
    for nodes in (response.source_nodes, returned_nodes):
        nodes[:] = [node for node in nodes if not is_example(node)]


def _warn_once(handover: Handover) -> None:
    counters = handover.chooser.engine.counters
    if not counters["examples.not_shown"]:
        log.warning(
            "IC-Cache chose examples, but no prompt included them; give the engine text_qa_template=few_shot_prompt(), "
            "or set ICCachePostprocessor(show='nodes')"
        )
    counters.count("examples.not_shown")
