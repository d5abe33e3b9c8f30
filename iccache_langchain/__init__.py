"""IC-Cache for LangChain.

`ICCacheChatModel` routes calls and adds examples, `ICCacheMiddleware` does so inside an agent, `ICCache` is for
`set_llm_cache`, `ICCacheExampleSelector` for few-shot templates, `ICCacheCallbackHandler` for callbacks. `ChatFromModel`
makes an arm of a `Model`, such as `HuggingFaceModel`; `as_model` makes a `Model` of a chat model.

Names are imported on first use, because LangChain and its agents take seconds to import.
"""

from typing import TYPE_CHECKING, Final

from shared_core.exports import lazily, require

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
        ConfigurationError,
        EmbedderDiffers,
        EmbedderFailed,
        ExtraIsMissing,
        ICCacheError,
        ModelFailed,
        NotFromICCache,
        RedactionFailed,
        StoreIsUnusable,
    )
    from shared_core.inference import Completion, Model, StreamingModel
    from shared_core.inference.embedders import as_embedder
    from shared_core.inference.huggingface import HuggingFaceModel
    from shared_core.inference.openai import OpenAIModel
    from shared_core.manager.privacy import Redact
    from shared_core.reward import Reward
    from shared_core.settings import Settings
    from shared_core.store.protocol import Store
    from shared_core.values import Message

    __version__: str
else:
    _HOMES: Final = {
        "ChatFromModel": ("iccache_langchain.chat_from_model", "ChatFromModel"),
        "as_model": ("iccache_langchain.models", "as_model"),
        "ICCache": ("iccache_langchain.cache", "ICCache"),
        "ICCacheCallbackHandler": ("iccache_langchain.callbacks", "ICCacheCallbackHandler"),
        "ICCacheChatModel": ("iccache_langchain.chat_model", "ICCacheChatModel"),
        "ICCacheExampleSelector": ("iccache_langchain.example_selector", "ICCacheExampleSelector"),
        "ICCacheMiddleware": ("iccache_langchain.middleware", "ICCacheMiddleware"),
        "Settings": ("shared_core.settings", "Settings"),
    }
    __getattr__ = lazily(__name__, _HOMES)

__all__ = [
    "ChatFromModel",
    "Completion",
    "ConfigurationError",
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
    "ICCacheMiddleware",
    "Message",
    "Model",
    "ModelFailed",
    "NotFromICCache",
    "OpenAIModel",
    "Redact",
    "RedactionFailed",
    "Reward",
    "RoutingOptions",
    "Settings",
    "Store",
    "StoreIsUnusable",
    "StreamingModel",
    "__version__",
    "as_embedder",
    "as_model",
    "iccache_context",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
