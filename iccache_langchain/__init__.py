"""IC-Cache for LangChain.

`ICCacheChatModel` routes calls and adds examples, `ICCacheMiddleware` does so inside an agent, `ICCache` is for
`set_llm_cache`, `ICCacheExampleSelector` for few-shot templates, `ICCacheCallbackHandler` for callbacks. `ChatFromModel`
makes an arm of a `Model`, such as `HuggingFaceModel`; `as_model` makes a `Model` of a chat model.

Names are imported on first use, because LangChain and its agents take seconds to import.
"""

from typing import TYPE_CHECKING, Final

from shared_core.adapters.exports import lazily
from shared_core.extras import is_installed, require

require("langchain_core", "langchain-core", "langchain")

if TYPE_CHECKING:
    from iccache_langchain.cache import ICCache
    from iccache_langchain.callbacks import ICCacheCallbackHandler
    from iccache_langchain.chat_from_model import ChatFromModel
    from iccache_langchain.chat_model import ICCacheChatModel
    from iccache_langchain.example_selector import ICCacheExampleSelector
    from iccache_langchain.middleware import ICCacheMiddleware
    from iccache_langchain.models import as_model
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
        "iccache_langchain.cache": ("ICCache",),
        "iccache_langchain.callbacks": ("ICCacheCallbackHandler",),
        "iccache_langchain.chat_from_model": ("ChatFromModel",),
        "iccache_langchain.chat_model": ("ICCacheChatModel",),
        "iccache_langchain.example_selector": ("ICCacheExampleSelector",),
        "iccache_langchain.middleware": ("ICCacheMiddleware",),
        "iccache_langchain.models": ("as_model",),
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
    "ChatFromModel",
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
    "ICCache",
    "ICCacheCallbackHandler",
    "ICCacheChatModel",
    "ICCacheError",
    "ICCacheExampleSelector",
    "ICCacheSettings",
    "Message",
    "Model",
    "ModelFailed",
    "NotFromICCache",
    "OpenAIModel",
    "Outcome",
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
    "iccache_context",
]
if is_installed("langchain"):  # without the extra `agents`, `import *` must not reach for it
    __all__ += ["ICCacheMiddleware"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
