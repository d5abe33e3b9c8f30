"""IC-Cache for LangChain.

`ICCacheChatModel` routes calls and adds examples, `ICCacheMiddleware` does so inside an agent, `ICCache` is for
`set_llm_cache`, `ICCacheExampleSelector` for few-shot templates, `ICCacheCallbackHandler` for callbacks.

Names are imported on first use, because LangChain and its agents take seconds to import.
"""

from typing import TYPE_CHECKING, Final

from shared_core.exports import lazily, require

require("langchain_core", "langchain-core", "langchain")

if TYPE_CHECKING:
    from iccache_langchain.cache import ICCache
    from iccache_langchain.callbacks import ICCacheCallbackHandler
    from iccache_langchain.chat_model import ICCacheChatModel
    from iccache_langchain.example_selector import ICCacheExampleSelector
    from iccache_langchain.middleware import ICCacheMiddleware
    from shared_core.adapters.context import iccache_context
    from shared_core.adapters.options import EngineOptions, RoutingOptions
    from shared_core.engine import Engine
    from shared_core.errors import (
        ConfigurationError,
        EmbedderDiffers,
        EmbedderFailed,
        ExtraIsMissing,
        ICCacheError,
        NotFromICCache,
        RedactionFailed,
        StoreIsUnusable,
    )
    from shared_core.inference.embedders import as_embedder
    from shared_core.manager.privacy import Redact
    from shared_core.reward import Reward
    from shared_core.settings import Settings
    from shared_core.store.protocol import Store

    __version__: str
else:
    _HOMES: Final = {
        "ICCache": ("iccache_langchain.cache", "ICCache"),
        "ICCacheCallbackHandler": ("iccache_langchain.callbacks", "ICCacheCallbackHandler"),
        "ICCacheChatModel": ("iccache_langchain.chat_model", "ICCacheChatModel"),
        "ICCacheExampleSelector": ("iccache_langchain.example_selector", "ICCacheExampleSelector"),
        "ICCacheMiddleware": ("iccache_langchain.middleware", "ICCacheMiddleware"),
        "Settings": ("shared_core.settings", "Settings"),
    }
    __getattr__ = lazily(__name__, _HOMES)

__all__ = [
    "ConfigurationError",
    "EmbedderDiffers",
    "EmbedderFailed",
    "Engine",
    "EngineOptions",
    "ExtraIsMissing",
    "ICCache",
    "ICCacheCallbackHandler",
    "ICCacheChatModel",
    "ICCacheError",
    "ICCacheExampleSelector",
    "ICCacheMiddleware",
    "NotFromICCache",
    "Redact",
    "RedactionFailed",
    "Reward",
    "RoutingOptions",
    "Settings",
    "Store",
    "StoreIsUnusable",
    "__version__",
    "as_embedder",
    "iccache_context",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
