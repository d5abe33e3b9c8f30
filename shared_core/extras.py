"""Tells whether an optional dependency is installed, without importing it."""

from __future__ import annotations

import importlib.util

from shared_core.errors import ExtraIsMissing


def is_installed(module: str) -> bool:
    """True if `module`, which may be dotted, can be found. Imports its parents."""
    parents = module.split(".")
    return all(importlib.util.find_spec(".".join(parents[:depth])) for depth in range(1, len(parents) + 1))


def require(module: str, package: str, extra: str) -> None:
    """Check that a framework is installed.

    Raises:
        ExtraIsMissing: `module` cannot be found.
    """
    if not is_installed(module):
        raise ExtraIsMissing(package, extra)
