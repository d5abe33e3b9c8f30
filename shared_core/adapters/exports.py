"""Imports a package's names on first use, because the frameworks behind them take seconds to import."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package whose names are imported on first use. It knows ``__version__`` as well.

    Args:
        package: The package's name, for the error.
        homes: Module → the names that come from it, written as in an import statement: ``"Name"`` or
            ``"Name as Other"``. They repeat the imports that the package makes for type checkers, and import-linter
            sees those.
    """
    known = {
        listed.split(" as ")[-1]: (module, listed.split(" as ")[0]) for module in homes for listed in homes[module]
    }

    def find(name: str) -> object:
        if name == "__version__":
            return importlib.metadata.version("iccache")
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = known[name]
        return getattr(importlib.import_module(module), there)

    return find
