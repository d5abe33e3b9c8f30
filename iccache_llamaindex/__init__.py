"""IC-Cache for LlamaIndex: `ICCacheLLM` routes and shows examples; `ICCachePostprocessor` and `few_shot_prompt` show
them in query and chat engines as they are, and `ICCacheEventHandler` learns from the answers.

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
    from iccache_llamaindex.llm import ICCacheLLM
    from iccache_llamaindex.postprocessor import ICCachePostprocessor, without_examples
    from iccache_llamaindex.prompts import few_shot_prompt

_HOMES: Final = {
    "ICCacheLLM": "iccache_llamaindex.llm",
    "ICCachePostprocessor": "iccache_llamaindex.postprocessor",
    "few_shot_prompt": "iccache_llamaindex.prompts",
    "without_examples": "iccache_llamaindex.postprocessor",
}

__all__ = [
    "ICCacheLLM",
    "ICCachePostprocessor",
    "ICCacheSettings",
    "few_shot_prompt",
    "iccache_context",
    "without_examples",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
