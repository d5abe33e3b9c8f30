"""IC-Cache for LangChain.

`ICCacheChatModel` routes and shows examples, `ICCacheMiddleware` does so inside an agent, `ICCache` goes into
`set_llm_cache`, `ICCacheExampleSelector` into few-shot templates, `ICCacheCallbackHandler` into callbacks.
"""

import importlib.util
from typing import TYPE_CHECKING

from shared_core.adapters import iccache_context
from shared_core.errors import ExtraIsMissing
from shared_core.settings import Settings

if importlib.util.find_spec("langchain_core") is None:
    raise ExtraIsMissing("langchain-core", "langchain")

from iccache_langchain.cache import ICCache
from iccache_langchain.callbacks import ICCacheCallbackHandler
from iccache_langchain.chat_model import ICCacheChatModel
from iccache_langchain.example_selector import ICCacheExampleSelector

if TYPE_CHECKING:
    from iccache_langchain.middleware import ICCacheMiddleware
else:

    def __getattr__(name: str) -> object:
        """`ICCacheMiddleware` when it is asked for: LangChain's agents take seconds to import, and are an extra."""
        if name == "ICCacheMiddleware":
            from iccache_langchain.middleware import ICCacheMiddleware

            return ICCacheMiddleware
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ICCache",
    "ICCacheCallbackHandler",
    "ICCacheChatModel",
    "ICCacheExampleSelector",
    "ICCacheMiddleware",
    "Settings",
    "iccache_context",
]
