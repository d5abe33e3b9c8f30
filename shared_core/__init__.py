"""The framework-free core of IC-Cache. Users import `iccache_langchain` or `iccache_llamaindex` instead."""
