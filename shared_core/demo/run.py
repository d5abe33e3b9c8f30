"""One run of the demo: every request goes the way of IC-Cache, next to what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shared_core.adapters.context import Context
from shared_core.adapters.parameters import decision_id
from shared_core.adapters.requests import build_request
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.demo.answers import Answer, CompletionAnswers, outcome_of
from shared_core.demo.models import TIMEOUT, Models
from shared_core.demo.remarks import EARLY, early_warning
from shared_core.demo.results import Alone, Case, Flaw
from shared_core.demo.texts import shortened
from shared_core.demo.view import View
from shared_core.demo.workload import Workload
from shared_core.engine import Engine
from shared_core.errors import ModelFailed
from shared_core.inference import Completion, Embedder, Model
from shared_core.prompt import inserted, render
from shared_core.records import Vector
from shared_core.settings import Settings
from shared_core.values import DEFAULT_SCOPE, Arm, Decision, Message, Request, ScoredExample

SMALL: Final = "small"
REFERENCE: Final = "large"
TASK: Final = "demo"
SAMPLE: Final = 24  # requests on which the small model is asked without examples, too: each costs an answer's time
SIDE_BY_SIDE: Final = 5  # the first ones with a full hand of examples: before, the pool has little to show
LEARN_EVERY: Final = 5  # requests; learning in place, between requests, makes a run depend on its seed alone

# Bolder than the defaults, which are for traffic that never ends: here a few hundred requests are all there is
# (docs/decisions/0014-demo.md).
MAX_EXAMPLES: Final = 4
EXPLORE: Final = 0.3
QUALITY_TARGET: Final = 0.7
CONFIDENCE: Final = 0.5
COST_WEIGHT: Final = 0.4
SMALL_COST: Final = 0.1
CUT: Final = frozenset({"length", "max_tokens"})  # servers' words for an answer that reached the longest length
DEADLINE: Final = 5.0  # seconds: on a busy machine, a run must not become another run


class EmbeddedBefore(Embedder):
    """An embedder that remembers the run's requests, embedded in one batch, and embeds anything else as it comes."""

    def __init__(self, inner: Embedder, texts: Sequence[str]) -> None:
        self._inner = inner
        self._row = {text: row for row, text in enumerate(texts)}
        self.vectors: Vector = inner.embed(texts)

    @property
    @override
    def tag(self) -> str:
        return self._inner.tag

    @override
    def embed(self, texts: Sequence[str]) -> Vector:
        if not all(text in self._row for text in texts):
            return self._inner.embed(texts)
        known: Vector = self.vectors[[self._row[text] for text in texts]]
        return known


@dataclass(frozen=True, slots=True)
class Trial:
    """The small model on a request of the user's own, without examples and with `examples`, the most useful first."""

    alone: str
    helped: str
    examples: tuple[ScoredExample, ...]


class Demo:
    """A workload, two models, and an engine over both. A context manager; `run` runs it.

    Args:
        models: The small one is asked through IC-Cache, and directly where its answer without examples is compared.
            The large one is the reference. It is asked for every request, to compare; so it should not be charged
            twice.
        seed: Of every random draw.

    Attributes:
        cases: What happened so far, also of a run that was stopped.
    """

    def __init__(self, workload: Workload, models: Models, seed: int) -> None:
        self.workload = workload
        self.cases: list[Case] = []
        self._models = models
        self._arms = {SMALL: models.small, REFERENCE: models.large}
        self._seed = seed
        embedder = EmbeddedBefore(models.embedder, workload.requests)
        self._nearest = nearest_earlier(embedder.vectors)
        self._reference: dict[str, str] = {}
        self.engine = Engine(
            store="memory://",
            arms=[Arm(SMALL, SMALL_COST), Arm(REFERENCE, 1.0, uses_examples=False)],
            reference=REFERENCE,
            embedder=embedder,
            reward=self._reward,
            background=False,
            settings=Settings(
                max_examples=MAX_EXAMPLES,
                explore=EXPLORE,
                quality_target=QUALITY_TARGET,
                confidence=CONFIDENCE,
                cost_weight=COST_WEIGHT,
                deadline=DEADLINE,
                seed=seed,
            ),
        )
        self._routing = Routing(self.engine, REFERENCE)
        self.engine.warm(DEFAULT_SCOPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def run(self, view: View) -> None:
        """Send every request, showing each; what happened is in `cases`.

        Raises:
            ModelFailed: A model gave no answer.
        """
        compared = 0
        stride = max(1, len(self.workload.requests) // SAMPLE)
        for index in range(len(self.workload.requests)):
            case = self._case(index, sampled=index % stride == 0, compare=compared < SIDE_BY_SIDE)
            self.cases.append(case)
            view.show(self.cases)
            if len(self.cases) == EARLY and (warning := early_warning(self.cases, self.workload.reward)):
                view.warn(warning)
            if compared < SIDE_BY_SIDE and _is_full(case):
                compared += 1
                view.compare(compared, case)
            self.engine.flush()
            if len(self.cases) % LEARN_EVERY == 0:
                self.engine.maintain()

    def try_out(self, request: str) -> Trial:
        """The small model on any request, with the examples that IC-Cache chooses for it now; nothing is recorded.

        Raises:
            ModelFailed: The small model gave no answer.
        """
        asked = self._request(request)
        examples = self.engine.decide(asked).selection.for_arm(SMALL)
        shown = inserted(asked.messages, render(asked, examples, "chat"))
        return Trial(self._ask_small(asked.messages), self._ask_small(shown), examples)

    def _case(self, index: int, *, sampled: bool, compare: bool) -> Case:
        request = self.workload.requests[index]
        asked = self._request(request)
        reference = self._ask(self._models.large, asked.messages, self._models.large_name)
        self._reference[request] = reference.texts[0]
        answer = self._routed(asked, index)
        decision = answer.decision
        case = Case(
            number=index + 1,
            request=request,
            right=self.workload.answers.get(request, reference.texts[0]),
            is_known=request in self.workload.answers,
            arm=decision.arm,
            offloaded=decision.arm != REFERENCE,
            examples=len(decision.given),
            explored=decision.route.explored,
            answer=answer.text,
            score=self._score(request, answer.text),
            large_score=self._score(request, reference.texts[0]),
            copied=self._copied(index),
            alone=None,
            tokens=reference.prompt_tokens + reference.completion_tokens or None,
            flaw=_flaw(reference),
            fallback=decision.route.reason if decision.fallback else "",
        )
        if not sampled and not (compare and _is_full(case)):
            return case
        alone = self._ask_small(asked.messages)
        return replace(case, alone=Alone(alone, self._score(request, alone), sampled))

    def _request(self, request: str) -> Request:
        return build_request(self.workload.messages(request), context=Context(task=TASK))

    def _routed(self, request: Request, index: int) -> Answer:
        """The answer by IC-Cache's choice; the decision's id, and with it every draw, depends on the seed alone."""

        def ask(decision: Decision) -> Answer:
            messages = inserted(request.messages, decision.insertion)
            # The large model has just answered, so a failure here is the small one's.
            return Answer(decision, self._ask(self._arms[decision.arm], messages, self._models.small_name))

        identity = decision_id(uuid5(NAMESPACE_OID, f"{self._seed}/{index}"))
        decision = self._routing.decide(lambda: request, identity)
        return RoutedCall(self._routing, decision, CompletionAnswers()).run(ask)

    def _copied(self, index: int) -> float | None:
        """The reward of what a semantic cache that always answers would return."""
        if index == 0:
            return None
        nearest = self.workload.requests[int(self._nearest[index])]
        answer = self.workload.answers.get(nearest, self._reference[nearest])
        return self._score(self.workload.requests[index], answer)

    def _score(self, request: str, answer: str) -> float:
        return self.workload.score(request, answer, self._reference[request])

    def _reward(self, request: Request, answer: str) -> float:
        return self._score(request.query, answer)

    def _ask_small(self, messages: Sequence[Message]) -> str:
        return self._ask(self._models.small, messages, self._models.small_name).texts[0]

    def _ask(self, model: Model, messages: Sequence[Message], name: str) -> Completion:
        try:
            return model.complete(messages, max_tokens=self._models.max_tokens, timeout=TIMEOUT)
        except ModelFailed as error:
            asked = shortened(messages[-1].text)
            raise ModelFailed(f"{name} gave no answer to {asked!r}: {shortened(str(error))}") from None


def nearest_earlier(vectors: Vector) -> NDArray[np.intp]:
    """Index of the most similar earlier row of unit vectors (n, dimension), (n,); 0 for the first row."""
    similarity = vectors @ vectors.T
    similarity[np.triu_indices(len(vectors))] = -np.inf
    nearest: NDArray[np.intp] = similarity.argmax(axis=1)
    return nearest


def _is_full(case: Case) -> bool:
    """True if the small model answered with as many examples as it may be shown."""
    return case.offloaded and case.examples == MAX_EXAMPLES


def _flaw(completion: Completion) -> Flaw:
    """Why this answer of the large model cannot be an example."""
    if completion.finish_reasons[0].lower() in CUT:
        return "cut"
    outcome = outcome_of(completion)
    return "" if outcome.finished and outcome.answer.strip() else "unusable"
