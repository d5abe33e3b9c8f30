"""Warns about a line of the user's code, however deep in ours the reason was found."""

from __future__ import annotations

import sys
import warnings
from typing import Final

_OURS: Final = ("shared_core", "iccache_langchain", "iccache_llamaindex")


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """`warnings.warn`, at the innermost line outside of IC-Cache and of the frameworks' constructors."""
    level, frame = 1, sys._getframe()  # noqa: SLF001 - the documented way to the caller's frames
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_inside(module: str) -> bool:
    return module.partition(".")[0] in {*_OURS, "pydantic", "contextlib"}
