"""What `ICCacheChatModel` is built from: tells LangChain's arguments from the engine's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.language_models import BaseChatModel

from shared_core.adapters.factory import split_kwargs

# LangChain's standard parameters that are a client's own affair; each arm has a client.
_CLIENT: Final = frozenset({"api_key", "base_url", "max_retries", "timeout"})


@dataclass(frozen=True, slots=True)
class Sorted:
    """Keyword arguments by whom they concern: LangChain's base class, or the engine's settings."""

    base: Mapping[str, Any]
    knobs: Mapping[str, Any]


def sort(others: Mapping[str, Any]) -> Sorted:
    """Tell fields of `BaseChatModel` from those of `Settings`.

    Raises:
        SettingIsWrong: An argument is neither.
    """
    clients = sorted(others.keys() & _CLIENT)
    if clients:
        warnings.warn(f"{', '.join(clients)}: each arm has a client of its own; set it there", stacklevel=4)
    ours = {name: value for name, value in others.items() if name not in _CLIENT}
    return Sorted(*split_kwargs(ours, BaseChatModel.model_fields, "ICCacheChatModel"))
