"""IC-Cache for LangChain: `ICCacheChatModel` routes and shows examples, `ICCache` goes into `set_llm_cache`."""

import importlib.util

from shared_core.adapters import iccache_context
from shared_core.errors import ExtraIsMissing
from shared_core.settings import Settings

if importlib.util.find_spec("langchain_core") is None:
    raise ExtraIsMissing("langchain-core", "langchain")

from iccache_langchain.cache import ICCache
from iccache_langchain.chat_model import ICCacheChatModel

__all__ = ["ICCache", "ICCacheChatModel", "Settings", "iccache_context"]
