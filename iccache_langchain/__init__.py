"""IC-Cache for LangChain: `ICCacheChatModel` routes and shows examples, `ICCache` goes into `set_llm_cache`."""

from iccache_langchain.cache import ICCache
from iccache_langchain.chat_model import ICCacheChatModel
from shared_core.adapters import iccache_context
from shared_core.settings import Settings

__all__ = ["ICCache", "ICCacheChatModel", "Settings", "iccache_context"]
