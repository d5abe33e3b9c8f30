"""Remarks on a run beside its figures: why nothing was learned, and what to change. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared_core.demo.options import Reward
from shared_core.demo.results import Case

EARLY: Final = 10  # requests; a reward that was 0 until then will stay 0
ENOUGH: Final = 40  # requests, of which the small model is given about a fifth (docs/decisions/0014-demo.md)
POOR: Final = 0.5  # mean reward of the large model; examples whose own reward is below count for less, at 0 for nothing


def early_warning(cases: Sequence[Case], reward: Reward) -> str | None:
    """What to change if the large model never scores in the first cases; None if it does."""
    if any(case.large_score > 0 for case in cases):
        return None
    flawed = sum(case.flaw != "" for case in cases)
    also = f" {flawed} of them were cut or empty: raise --max-tokens, too." if flawed else ""
    what = "equals the file's" if reward == Reward.EQUALITY else "has a word in common with the file's"
    return (
        f"No answer of the large model to the first {len(cases)} requests {what}, so nothing can be learned: describe with "
        f"--system TEXT how to answer, or compare answers in free words with --reward f1.{also}"
    )


def remarks(cases: Sequence[Case], reward: Reward, max_tokens: int) -> tuple[str, ...]:
    """Sentences for the end of a run of at least one case."""
    cut, unusable = (sum(case.flaw == flaw for case in cases) for flaw in ("cut", "unusable"))
    fallbacks = [case.fallback for case in cases if case.fallback]
    notes = []
    if cut:
        notes.append(
            f"{cut} of {len(cases)} answers of the large model were cut at --max-tokens {max_tokens} and cannot be examples."
        )
    if unusable:
        notes.append(
            f"{unusable} of {len(cases)} answers of the large model were empty or incomplete and cannot be examples."
        )
    if fallbacks:
        first = fallbacks[0].removeprefix("fallback: ")
        notes.append(f"{len(fallbacks)} of {len(cases)} requests fell back; the first because {first}.")
    if not any(case.offloaded and case.examples for case in cases):
        notes.append(f"The small model was shown no examples: {_why_none(cases, reward, cut + unusable)}.")
    if not any(case.is_known for case in cases):
        notes.append("Always large agrees with itself, so its quality is 1 by definition.")
    return tuple(notes)


def _why_none(cases: Sequence[Case], reward: Reward, flawed: int) -> str:
    if any(case.fallback for case in cases):
        return "where it was to answer, the large model had to"
    mean = sum(case.large_score for case in cases) / len(cases)
    if flawed * 2 >= len(cases):
        return (
            "most answers of the large model were cut or empty; raise --max-tokens, or look at the log of its endpoint"
        )
    if mean < POOR:
        mend = "describe how to answer with --system" + (", or try --reward f1" if reward == Reward.EQUALITY else "")
        return f"the large model's own answers score {mean:.2f} on average, too little to be trusted; {mend}"
    if len(cases) < ENOUGH:
        return f"{len(cases)} requests are too few to learn from; have at least {ENOUGH}, better 120"
    return "few requests were near enough to an earlier one (iccache estimate counts them)"
