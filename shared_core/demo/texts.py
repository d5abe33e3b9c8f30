"""Texts of any length in one line of a screen or message."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 200  # characters


def shortened(text: str, longest: int = LONGEST) -> str:
    """`text` as one line of at most `longest` characters, the last of them an ellipsis if it was cut."""
    line = " ".join(text[: 10 * longest].split())
    return line if len(line) <= longest and len(text) <= 10 * longest else line[: longest - 1] + "…"
