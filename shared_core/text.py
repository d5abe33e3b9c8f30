"""Normal forms of texts, to compare them, and hashes of values."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Final

_CANONICAL: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
LINE_END: Final = re.compile(r"\r\n?|\n")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")


def fold(text: str) -> str:
    """`text` in NFC, with runs of white space as one space and trimmed ends; case is kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def canonical_text(text: str) -> str:
    """The normal form in which two requests are compared: NFC, without insignificant white space.

    A text of one line is folded. In a text of several lines, indentation and spacing may be code or a table, so only
    line ends, trailing space and empty lines around the text are normalised (docs/decisions/0019-exact-cache.md).
    """
    if "\n" not in text and "\r" not in text:
        return fold(text)
    lines = [line.rstrip() for line in LINE_END.split(unicodedata.normalize("NFC", text))]
    kept = "\n".join(lines).strip("\n")
    return kept if "\n" in kept else fold(kept)


def surface_counts(text: str) -> dict[str, int]:
    """What can be counted in a text without understanding it; characters unless the name says otherwise."""
    return {
        "characters": len(text),
        "bytes": len(text.encode("utf-8", "surrogatepass")),
        "words": len(text.split()),
        "lines": text.count("\n") + 1 if text else 0,
        "digits": sum(map(str.isdigit, text)),
        "numbers": len(_NUMBER.findall(text)),
        "capitals": sum(map(str.isupper, text)),
        "questions": text.count("?"),
        "brackets": sum(map(text.count, "([{<")),
        "quotes": sum(map(text.count, "\"'`")),
    }


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, the same for equal values."""
    return _CANONICAL.encode(value)


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()
