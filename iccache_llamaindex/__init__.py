"""IC-Cache for LlamaIndex: `ICCacheLLM` routes calls; `ICCachePostprocessor` and `few_shot_prompt` add
examples in query and chat engines, `with_examples` in workflows; `ICCacheEventHandler` collects examples from answers.
`LLMFromModel` makes an arm of a `Model`, such as `HuggingFaceModel`; `as_model` makes a `Model` of an LLM.

Names are imported on first use, because LlamaIndex takes seconds to import. The settings are called `ICCacheSettings`,
because LlamaIndex has its own `Settings`.
"""

from typing import TYPE_CHECKING, Final

from shared_core.adapters.exports import lazily
from shared_core.extras import require

require("llama_index.core", "llama-index-core", "llamaindex")

if TYPE_CHECKING:
    from iccache_llamaindex.events import ICCacheEventHandler, ICCacheFeedbackEvent
    from iccache_llamaindex.llm import ICCacheLLM
    from iccache_llamaindex.llm_from_model import LLMFromModel
    from iccache_llamaindex.models import as_model
    from iccache_llamaindex.postprocessor import ICCachePostprocessor, without_examples
    from iccache_llamaindex.prompts import few_shot_prompt
    from iccache_llamaindex.route_event import ICCacheRouteEvent
    from iccache_llamaindex.workflow import Prepared, with_examples
    from shared_core.adapters.context import iccache_context
    from shared_core.adapters.options import EngineOptions, RoutingOptions
    from shared_core.engine import Engine
    from shared_core.errors import (
        CannotBePickled,
        ConfigurationError,
        DependencyIsSlow,
        EmbedderDiffers,
        EmbedderFailed,
        ExtraIsMissing,
        ICCacheError,
        ModelFailed,
        NotFromICCache,
        RedactionFailed,
        StoreIsAway,
        StoreIsUnusable,
    )
    from shared_core.inference import Completion, Embedder, Model, StreamingModel
    from shared_core.inference.embedders import as_embedder
    from shared_core.inference.huggingface import HuggingFaceModel
    from shared_core.inference.openai import OpenAIModel
    from shared_core.manager.privacy import Redact
    from shared_core.reward import Reward
    from shared_core.settings import Settings as ICCacheSettings
    from shared_core.store.protocol import Store
    from shared_core.values import Arm, Message, Outcome, Request

    __version__: str
else:
    _HOMES: Final = {
        "iccache_llamaindex.events": ("ICCacheEventHandler", "ICCacheFeedbackEvent"),
        "iccache_llamaindex.llm": ("ICCacheLLM",),
        "iccache_llamaindex.llm_from_model": ("LLMFromModel",),
        "iccache_llamaindex.models": ("as_model",),
        "iccache_llamaindex.postprocessor": ("ICCachePostprocessor", "without_examples"),
        "iccache_llamaindex.prompts": ("few_shot_prompt",),
        "iccache_llamaindex.route_event": ("ICCacheRouteEvent",),
        "iccache_llamaindex.workflow": ("Prepared", "with_examples"),
        "shared_core.adapters.context": ("iccache_context",),
        "shared_core.adapters.options": ("EngineOptions", "RoutingOptions"),
        "shared_core.engine": ("Engine",),
        "shared_core.errors": (
            "CannotBePickled",
            "ConfigurationError",
            "DependencyIsSlow",
            "EmbedderDiffers",
            "EmbedderFailed",
            "ExtraIsMissing",
            "ICCacheError",
            "ModelFailed",
            "NotFromICCache",
            "RedactionFailed",
            "StoreIsAway",
            "StoreIsUnusable",
        ),
        "shared_core.inference": ("Completion", "Embedder", "Model", "StreamingModel"),
        "shared_core.inference.embedders": ("as_embedder",),
        "shared_core.inference.huggingface": ("HuggingFaceModel",),
        "shared_core.inference.openai": ("OpenAIModel",),
        "shared_core.manager.privacy": ("Redact",),
        "shared_core.reward": ("Reward",),
        "shared_core.settings": ("Settings as ICCacheSettings",),
        "shared_core.store.protocol": ("Store",),
        "shared_core.values": ("Arm", "Message", "Outcome", "Request"),
    }
    __getattr__ = lazily(__name__, _HOMES)

__all__ = [
    "Arm",
    "CannotBePickled",
    "Completion",
    "ConfigurationError",
    "DependencyIsSlow",
    "Embedder",
    "EmbedderDiffers",
    "EmbedderFailed",
    "Engine",
    "EngineOptions",
    "ExtraIsMissing",
    "HuggingFaceModel",
    "ICCacheError",
    "ICCacheEventHandler",
    "ICCacheFeedbackEvent",
    "ICCacheLLM",
    "ICCachePostprocessor",
    "ICCacheRouteEvent",
    "ICCacheSettings",
    "LLMFromModel",
    "Message",
    "Model",
    "ModelFailed",
    "NotFromICCache",
    "OpenAIModel",
    "Outcome",
    "Prepared",
    "Redact",
    "RedactionFailed",
    "Request",
    "Reward",
    "RoutingOptions",
    "Store",
    "StoreIsAway",
    "StoreIsUnusable",
    "StreamingModel",
    "__version__",
    "as_embedder",
    "as_model",
    "few_shot_prompt",
    "iccache_context",
    "with_examples",
    "without_examples",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
