"""IC-Cache for LlamaIndex: the adapters follow; the package is reserved so that imports stay stable."""
