"""IC-Cache for LlamaIndex: `ICCacheLLM` routes and shows examples; `ICCachePostprocessor` and `few_shot_prompt` show them
in query and chat engines with any LLM, `with_examples` in workflows; `ICCacheEventHandler` learns from the answers.

What is exported is imported when it is first used: LlamaIndex takes seconds. The settings are called
`ICCacheSettings` here, because every LlamaIndex program has a `Settings` already.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from shared_core.adapters import iccache_context
from shared_core.errors import ExtraIsMissing
from shared_core.settings import Settings as ICCacheSettings

if importlib.util.find_spec("llama_index") is None or importlib.util.find_spec("llama_index.core") is None:
    raise ExtraIsMissing("llama-index-core", "llamaindex")

if TYPE_CHECKING:
    from iccache_llamaindex.events import ICCacheEventHandler, ICCacheFeedbackEvent
    from iccache_llamaindex.llm import ICCacheLLM
    from iccache_llamaindex.postprocessor import ICCachePostprocessor, without_examples
    from iccache_llamaindex.prompts import few_shot_prompt
    from iccache_llamaindex.route_event import ICCacheRouteEvent
    from iccache_llamaindex.workflow import Prepared, with_examples

_HOMES: Final = {
    "ICCacheEventHandler": "iccache_llamaindex.events",
    "ICCacheFeedbackEvent": "iccache_llamaindex.events",
    "ICCacheLLM": "iccache_llamaindex.llm",
    "ICCachePostprocessor": "iccache_llamaindex.postprocessor",
    "ICCacheRouteEvent": "iccache_llamaindex.route_event",
    "Prepared": "iccache_llamaindex.workflow",
    "few_shot_prompt": "iccache_llamaindex.prompts",
    "with_examples": "iccache_llamaindex.workflow",
    "without_examples": "iccache_llamaindex.postprocessor",
}

__all__ = [
    "ICCacheEventHandler",
    "ICCacheFeedbackEvent",
    "ICCacheLLM",
    "ICCachePostprocessor",
    "ICCacheRouteEvent",
    "ICCacheSettings",
    "Prepared",
    "few_shot_prompt",
    "iccache_context",
    "with_examples",
    "without_examples",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
