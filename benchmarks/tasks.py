"""The two checkable tasks of the offload benchmark: requests, reference answers, and scores.

NL2Bash is scored by token F1 against the reference command, CLINC150 by exact match of the intent name.
Texts are read from ``$ICCACHE_DATA`` and never written anywhere by this module.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 0
DATA = Path(os.environ.get("ICCACHE_DATA", Path(__file__).parents[2] / "shared" / "data"))

FENCE = "```"


@dataclass(frozen=True, slots=True)
class Item:
    """One request and its reference answer."""

    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """A checkable task.

    Attributes:
        name: Short name, used in file names.
        system: The system message that every arm sees.
        max_tokens: The generation limit sent to every model.
        requests: The held-out requests, in the order in which they are sent.
        pool: Past requests, disjoint from `requests`, in a fixed shuffled order.
        score: Maps (answer, reference) to a quality in [0, 1].
    """

    name: str
    system: str
    max_tokens: int
    requests: Sequence[Item]
    pool: Sequence[Item]
    score: Callable[[str, str], float]


def data_file(name: str) -> Path:
    """Path of one data file.

    Raises:
        SystemExit: The file is missing; the message names its path.
    """
    path = DATA / name
    if not path.exists():
        raise SystemExit(f"benchmark data missing: {path} (set ICCACHE_DATA to the folder that holds {name})")
    return path


def first_line(text: str) -> str:
    """The first non-empty line of an answer, without code fences and back-ticks."""
    lines = [line.strip() for line in text.strip().splitlines()]
    for line in lines:
        if line and not line.startswith(FENCE):
            return line.strip("`").strip()
    return ""


def token_f1(answer: str, reference: str) -> float:
    """Bag-of-tokens F1 over white-space tokens, in [0, 1] (the usual SQuAD form, case kept: it is code)."""
    got, want = Counter(first_line(answer).split()), Counter(reference.split())
    common = sum((got & want).values())
    if not common:
        return 0.0
    precision, recall = common / sum(got.values()), common / sum(want.values())
    return 2 * precision * recall / (precision + recall)


def exact(answer: str, reference: str) -> float:
    """1.0 if the first line of the answer is the reference name, case and a final dot aside."""
    return float(first_line(answer).strip(".\"' ").lower() == reference.lower())


def _held_out(text: str) -> bool:
    return int(hashlib.sha1(text.lower().encode(), usedforsecurity=False).hexdigest(), 16) % 10 == 1


def _one_answer_each(items: Sequence[Item]) -> list[Item]:
    seen: dict[str, Item] = {}
    for item in items:
        seen.setdefault(item.request.lower().strip(), item)
    return list(seen.values())


def nl2bash(n: int) -> Task:
    """NL2Bash: `n` held-out requests, the rest of the file as the pool (one command a request)."""
    with gzip.open(data_file("nl2bash_train.jsonl.gz"), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    items = _one_answer_each([Item(r["nl"], r["cmd"]) for r in rows])
    random.Random(SEED).shuffle(items)
    return Task(
        name="nl2bash",
        system="You translate requests into one Bash command. Answer with the command only.",
        max_tokens=96,
        requests=[i for i in items if _held_out(i.request)][:n],
        pool=[i for i in items if not _held_out(i.request)],
        score=token_f1,
    )


def clinc150(n: int) -> Task:
    """CLINC150: `n` requests of the test split, the training split as the pool, label list in the system message."""
    with gzip.open(data_file("clinc150.csv.gz"), "rt", encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if r["intent"] != "oos"]
    test = [Item(r["text"], r["intent"]) for r in rows if r["split"] == "test"]
    train = _one_answer_each([Item(r["text"], r["intent"]) for r in rows if r["split"] == "train"])
    for items in (test, train):
        random.Random(SEED).shuffle(items)
    held = {i.request.lower().strip() for i in test}
    labels = ", ".join(sorted({i.answer for i in train}))
    return Task(
        name="clinc150",
        system=f"Name the intent of the user's message. Answer with exactly one of these intents: {labels}.",
        max_tokens=12,
        requests=test[:n],
        pool=[i for i in train if i.request.lower().strip() not in held],
        score=exact,
    )


TASKS: dict[str, Callable[[int], Task]] = {"nl2bash": nl2bash, "clinc150": clinc150}
