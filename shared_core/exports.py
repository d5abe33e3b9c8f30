"""Names of the core that both adapters re-export, imported on first use. Users import only an adapter."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from typing import Final

from shared_core.errors import ExtraIsMissing

SHARED: Final = {
    "Completion": "shared_core.inference",
    "ConfigurationError": "shared_core.errors",
    "EmbedderDiffers": "shared_core.errors",
    "EmbedderFailed": "shared_core.errors",
    "EngineOptions": "shared_core.adapters.options",
    "Engine": "shared_core.engine",
    "ExtraIsMissing": "shared_core.errors",
    "HuggingFaceModel": "shared_core.inference.huggingface",
    "ICCacheError": "shared_core.errors",
    "Message": "shared_core.values",
    "Model": "shared_core.inference",
    "ModelFailed": "shared_core.errors",
    "NotFromICCache": "shared_core.errors",
    "OpenAIModel": "shared_core.inference.openai",
    "Redact": "shared_core.manager.privacy",
    "RedactionFailed": "shared_core.errors",
    "Reward": "shared_core.reward",
    "RoutingOptions": "shared_core.adapters.options",
    "Store": "shared_core.store.protocol",
    "StoreIsUnusable": "shared_core.errors",
    "StreamingModel": "shared_core.inference",
    "as_embedder": "shared_core.inference.embedders",
    "iccache_context": "shared_core.adapters.context",
}
"""Name → the module that holds it."""


def require(module: str, package: str, extra: str) -> None:
    """Check that a framework is installed.

    Raises:
        ExtraIsMissing: `module` cannot be found.
    """
    parents = module.split(".")
    for depth in range(1, len(parents) + 1):
        if importlib.util.find_spec(".".join(parents[:depth])) is None:
            raise ExtraIsMissing(package, extra)


def lazily(package: str, homes: Mapping[str, tuple[str, str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package whose names are imported on first use.

    Args:
        package: The package's name, for the error.
        homes: Name → module and name in it. Those of `SHARED` and ``__version__`` are added.
    """
    known = {**{name: (module, name) for name, module in SHARED.items()}, **homes}

    def find(name: str) -> object:
        if name == "__version__":
            return importlib.metadata.version("iccache")
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = known[name]
        return getattr(importlib.import_module(module), there)

    return find
