"""The names under which a model tells its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# In parameters, in the metadata of answers, and as attributes of the frameworks' classes.
MODEL_KEYS: Final = ("model", "model_name", "model_id", "deployment_name", "deployment")


def named_model(read: Callable[[str], object]) -> str:
    """The name of a model; empty if it is unknown.

    Args:
        read: Returns the value of a key, or None: ``params.get``.
    """
    names = (read(key) for key in MODEL_KEYS)
    return next((name for name in names if isinstance(name, str) and name), "")
