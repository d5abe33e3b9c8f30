"""Model outputs, stored as hash → output, to recompute the tables without running a model.

The key is the SHA-256 of (model, messages, decoding parameters). No text of a data set is stored, only a model's
answer, its token counts, and its seconds on the recording machine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "recorded"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of one model call: the text, its token counts, and its wall-clock seconds when it was recorded."""

    output: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def call_key(model: str, messages: Sequence[Mapping[str, str]], max_tokens: int) -> str:
    """SHA-256 of one greedy call. `messages` are OpenAI-style dicts with ``role`` and ``content``."""
    plain = [[m["role"], m["content"]] for m in messages]
    text = json.dumps([model, plain, max_tokens], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Recordings:
    """All recorded calls of one model: the committed file, and a journal of what a live run adds."""

    def __init__(self, model: str, folder: Path = FOLDER) -> None:
        self.model = model
        self._packed = folder / f"{model}.jsonl.gz"
        self._journal = folder / f"{model}.journal.jsonl"
        self._known: dict[str, Recorded] = {}
        if self._packed.exists():
            with gzip.open(self._packed, "rt", encoding="utf-8") as lines:
                self._read(lines.read().rstrip("\n").split("\n"))
        if self._journal.exists():
            self._read(self._journal.read_text(encoding="utf-8").rstrip("\n").split("\n"))

    def _read(self, lines: Sequence[str]) -> None:
        for line in lines:
            row = json.loads(line)
            key = row.pop("key")
            self._known[key] = Recorded(**row)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Recorded | None:
        """The recorded call of this key, or None."""
        return self._known.get(key)

    def add(self, key: str, call: Recorded) -> None:
        """Store one call; it is in the journal when this returns."""
        self._known[key] = call
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps({"key": key, **asdict(call)}, ensure_ascii=False) + "\n")

    def pack(self) -> None:
        """Write everything into the compressed file (sorted, byte-identical for equal content), drop the journal."""
        rows = [json.dumps({"key": k, **asdict(v)}, ensure_ascii=False) for k, v in sorted(self._known.items())]
        self._packed.parent.mkdir(parents=True, exist_ok=True)
        data = gzip.compress(("\n".join(rows) + "\n").encode(), compresslevel=9, mtime=0)
        self._packed.write_bytes(data)
        self._journal.unlink(missing_ok=True)
