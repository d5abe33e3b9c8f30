"""IC-Cache for LangChain."""
