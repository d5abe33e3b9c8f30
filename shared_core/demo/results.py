"""What a run of the demo measured, as pure functions over its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Flaw: TypeAlias = Literal["", "cut", "unusable"]  # cut at the longest length; empty, or not ended by itself


@dataclass(frozen=True, slots=True)
class Alone:
    """The small model's answer without examples. `sampled` ones were chosen before the run began."""

    answer: str
    score: float
    sampled: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One request, answered.

    Attributes:
        number: 1 for the first.
        arm: Who answered.
        offloaded: True if that was not the large model.
        examples: How many it was shown.
        explored: True if the exploration share chose it.
        score: Reward of `answer`.
        right: The right answer, or the large model's where none is known.
        is_known: True if the right answer is known; if not, a score is agreement with the large model.
        large_score: Reward of the large model's own answer.
        copied: Reward of the answer to the most similar earlier request; None for the first request.
        alone: The small model without examples, where it was asked too.
        tokens: What the large model reads and writes for this request; None if it sends no count.
        flaw: Why the large model's answer cannot be an example.
        fallback: Why IC-Cache could not decide, or its choice not answer; empty if neither.
    """

    number: int
    request: str
    right: str
    is_known: bool
    arm: str
    offloaded: bool
    examples: int
    explored: bool
    answer: str
    score: float
    large_score: float
    copied: float | None
    alone: Alone | None
    tokens: int | None
    flaw: Flaw = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over `n` cases; None where there are none."""

    n: int
    offload: float | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the final table: a way to answer, over the whole run and by thirds."""

    name: str
    whole: Figures
    thirds: tuple[Figures, Figures, Figures]


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a run.

    Attributes:
        rows: Always large, small alone, copy nearest, IC-Cache.
        with_examples: The small model's answers with examples, where IC-Cache asked it.
        large_calls: How often IC-Cache asked the large model.
        calls_avoided: How often it did not.
        tokens_avoided: What the large model would have read and written for those; None if it sends no count.
    """

    rows: tuple[Row, Row, Row, Row]
    with_examples: Figures
    large_calls: int
    calls_avoided: int
    tokens_avoided: int | None

    def as_json(self) -> dict[str, object]:
        """Plain values for ``--json``."""
        return asdict(self)


Reading: TypeAlias = Callable[[Case], tuple[bool, float] | None]  # (offloaded, quality), None if it has no part


def report(cases: Sequence[Case]) -> Report:
    """What these cases amount to; they may be the first few of a run."""
    offloaded = [c for c in cases if c.offloaded]
    return Report(
        rows=(
            _row("always large", cases, lambda c: (False, c.large_score)),
            _row("small alone", cases, _alone),
            _row("copy nearest", cases, lambda c: None if c.copied is None else (True, c.copied)),
            _row("IC-Cache", cases, lambda c: (c.offloaded, c.score)),
        ),
        with_examples=_figures(cases, lambda c: (True, c.score) if c.offloaded and c.examples else None),
        large_calls=len(cases) - len(offloaded),
        calls_avoided=len(offloaded),
        tokens_avoided=_sum(c.tokens for c in offloaded),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None if one is unknown."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def thirds(cases: Sequence[Case]) -> tuple[Sequence[Case], Sequence[Case], Sequence[Case]]:
    """The cases in three parts of as equal size as can be, in order."""
    a, b = round(len(cases) / 3), round(2 * len(cases) / 3)
    return cases[:a], cases[a:b], cases[b:]


def _alone(case: Case) -> tuple[bool, float] | None:
    return (True, case.alone.score) if case.alone and case.alone.sampled else None


def _row(name: str, cases: Sequence[Case], read: Reading) -> Row:
    first, second, last = (_figures(part, read) for part in thirds(cases))
    return Row(name, _figures(cases, read), (first, second, last))


def _figures(cases: Sequence[Case], read: Reading) -> Figures:
    read_ones = [value for value in map(read, cases) if value is not None]
    n = len(read_ones)
    if not n:
        return Figures(0, None, None)
    return Figures(n, sum(o for o, _ in read_ones) / n, sum(q for _, q in read_ones) / n)
