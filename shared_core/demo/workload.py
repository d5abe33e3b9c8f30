"""What the demo runs on, the built-in task or the user's: requests, and how an answer is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_core.demo import domain
from shared_core.demo.options import DemoOptions, Reward
from shared_core.errors import ConfigurationError
from shared_core.jsonl import called, read_jsonl
from shared_core.text import fold
from shared_core.values import Message


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that a run needs to know about its task.

    Attributes:
        requests: In the order in which they are sent; none comes twice.
        answers: The right answers, as far as they are known, by request.
        system: The system message that every model sees; empty for none.
        reward: How an answer is compared with the right one.
        hint: A request that the user may try after the run.
        about: The lines on the screen about task, models and reward, one sentence a line.
        about_time: The line about the seconds that the run took.
    """

    requests: tuple[str, ...]
    answers: Mapping[str, str]
    system: str
    about: tuple[str, ...]
    about_time: str
    reward: Reward = Reward.EQUALITY
    hint: str = ""

    def messages(self, request: str) -> tuple[Message, ...]:
        """The conversation of one request."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, Message("user", request))

    def score(self, request: str, answer: str, reference: str) -> float:
        """Reward in [0, 1]: `reward` with the right answer, or, where none is known, agreement with `reference`."""
        right = self.answers.get(request)
        if right is not None and self.reward == Reward.EQUALITY:
            return equality(answer, right)
        return token_f1(answer, reference if right is None else right)


def equality(answer: str, right: str) -> float:
    """1.0 if both are the same but for white space, else 0.0."""
    return float(fold(answer) == fold(right))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the two bags of words, in [0, 1], case ignored; two empty texts agree."""
    got, want = Counter(answer.lower().split()), Counter(reference.lower().split())
    if not got and not want:
        return 1.0
    return 2 * (got & want).total() / (got.total() + want.total())


def built_in(seed: int, size: int) -> Workload:
    """The invented command language (see `domain`).

    Raises:
        ConfigurationError: `size` is not between 1 and `domain.SIZE`.
    """
    if not 1 <= size <= domain.SIZE:
        raise ConfigurationError(f"the built-in task has 1 to {domain.SIZE} requests; --requests {size} is outside")
    pairs = domain.pairs(seed)[:size]
    about = (
        f"The task: {size} requests in an invented command language, which no model has ever seen.",
        "The large model is a file of the right answers; the reward is equality with it.",
        "The small model is SmolLM2-135M, served in this process.",
    )
    about_time = "It claims no time saved: the large model is a file, which answers without delay."
    return Workload(
        tuple(p.request for p in pairs),
        {p.request: p.answer for p in pairs},
        domain.SYSTEM,
        about,
        about_time,
        hint="heat the wine cellar to 12 degrees",
    )


def from_file(options: DemoOptions, path: Path) -> Workload:
    """The user's requests: JSON lines with a request and, where it is known, an answer. Repeats are left out.

    Raises:
        ConfigurationError: The file cannot be read, or a line is not as expected; the message names it. Or equality is
            asked for and there is no answer.
    """
    if options.requests is not None and options.requests < 1:
        raise ConfigurationError(f"--requests must be at least 1; got {options.requests}")
    lines = read_jsonl(path, [options.field], [options.answer_field], {options.field: "--field"})
    rows = {row[options.field]: row.get(options.answer_field) for row in lines}
    requests = tuple(rows)[: options.requests]
    answers = {request: answer for request in requests if (answer := rows[request]) is not None}
    if not answers and options.reward == Reward.EQUALITY:
        raise ConfigurationError(
            f'--reward equality needs answers, and {called(path)} has none in the field "{options.answer_field}"; name '
            "the field with --answer-field, or leave --reward out"
        )
    reward = options.reward or Reward.EQUALITY
    about = (
        f"The task: {len(requests)} different requests of {called(Path(path.name))}.",
        "The large model answers each of them once, asked by IC-Cache or not: the tables compare with it.",
        _about_reward(len(requests), len(answers), reward, options.answer_field),
    )
    about_time = "That includes both models' answers to the same requests, so it does not show time saved."
    system = (options.system or "").strip()
    return Workload(requests, answers, system, about, about_time, reward, hint=requests[-1])


def _about_reward(requests: int, known: int, reward: Reward, field: str) -> str:
    measure = "equality" if reward == Reward.EQUALITY else "overlap in words (F1)"
    against = f"The reward is {measure} with the answer in the file"
    agreement = "overlap in words (F1) with the large model's own answer, which is agreement and not truth"
    if known == requests:
        return f"{against}, white space aside." if reward == Reward.EQUALITY else f"{against}."
    if known == 0:
        return f'The file gives no answers (field "{field}"): the reward is {agreement}.'
    return f"{against} for {known} requests; for the other {requests - known} it is {agreement}."
