"""Moves documents to the front that good past answers to similar questions were based on. Pure functions.

An answer written from a document repeats much of its wording. So the trigrams that past answers share with a retrieved
document, weighted by the answers' utility, show which documents helped before. Character trigrams work in any language.
Trigrams that all documents share get weight 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from shared_core.text import fold
from shared_core.values import ScoredExample

_GRAM: Final = 3


def by_support(texts: Sequence[str], examples: Sequence[ScoredExample]) -> list[int]:
    """The positions of `texts`, the best supported first.

    Differences below 0.1 are treated as noise: such texts keep the retriever's order.
    """
    supports = support(texts, examples)
    return sorted(range(len(texts)), key=lambda i: (-round(supports[i], 1), i))


def support(texts: Sequence[str], examples: Sequence[ScoredExample]) -> list[float]:
    """Support of each text in [0, 1]: the maximum over examples of utility times the weighted share of the answer's
    trigrams that occur in the text. A trigram has the weight log(texts / texts that contain it)."""
    held = [_grams(text) for text in texts]
    frequency = Counter(gram for grams in held for gram in grams)
    weight = {gram: math.log(len(texts) / count) for gram, count in frequency.items()}
    answers = [(example.utility, _grams(example.answer) & weight.keys()) for example in examples]
    return [max((u * _covered(answer, grams, weight) for u, answer in answers), default=0.0) for grams in held]


def _covered(answer: set[str], grams: set[str], weight: dict[str, float]) -> float:
    total = sum(weight[gram] for gram in answer)
    return sum(weight[gram] for gram in answer & grams) / total if total else 0.0


def _grams(text: str) -> set[str]:
    folded = fold(text).casefold()
    return {folded[i : i + _GRAM] for i in range(len(folded) - _GRAM + 1)}
