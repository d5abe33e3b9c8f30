"""One run of the demo: every request goes through `ICCacheChatModel`, next to what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self
from uuid import NAMESPACE_OID, UUID, uuid5

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from numpy.typing import NDArray

from iccache_langchain.chat_model import ICCacheChatModel
from iccache_langchain.demo.models import Models, reason
from iccache_langchain.demo.remarks import EARLY, early_warning
from iccache_langchain.demo.results import Alone, Flaw, Step
from iccache_langchain.demo.texts import shortened
from iccache_langchain.demo.view import View
from iccache_langchain.demo.workload import Workload
from iccache_langchain.messages import insert, normalised, outcome_of
from shared_core.adapters import Context, build_request
from shared_core.adapters.provenance import finish_reason
from shared_core.errors import ICCacheError
from shared_core.inference import Embedder
from shared_core.prompt import render
from shared_core.records import Vector
from shared_core.settings import read_settings
from shared_core.values import DEFAULT_SCOPE, Request, ScoredExample

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
CUT: Final = frozenset({"length", "max_tokens"})  # what servers say of an answer that reached the longest length
DEADLINE: Final = 5.0  # seconds: on a busy machine, a run must not become another run


class ModelFailed(ICCacheError):
    """A model of the demo gave no answer."""


class EmbeddedBefore:
    """An embedder that remembers the run's requests, embedded in one batch, and embeds anything else as it comes."""

    def __init__(self, inner: Embedder, texts: Sequence[str]) -> None:
        self._inner = inner
        self._row = {text: row for row, text in enumerate(texts)}
        self.vectors: Vector = inner.embed(texts)

    @property
    def tag(self) -> str:
        """The inner embedder's."""
        return self._inner.tag

    def embed(self, texts: Sequence[str]) -> Vector:
        """Unit vectors of shape (len(texts), dimension)."""
        if not all(text in self._row for text in texts):
            return self._inner.embed(texts)
        known: Vector = self.vectors[[self._row[text] for text in texts]]
        return known


@dataclass(frozen=True, slots=True)
class Attempt:
    """The small model on a request of the user's own, without examples and with `examples`, the most useful first."""

    alone: str
    helped: str
    examples: tuple[ScoredExample, ...]


class Demo:
    """A workload, two models, and `ICCacheChatModel` over both. A context manager; `run` runs it.

    Args:
        models: The small one is asked through IC-Cache, and directly where its answer without examples is compared.
            The large one is the reference. It is asked for every request, to compare; so it should not be charged
            twice.
        seed: Of every random draw.

    Attributes:
        steps: What happened so far; whole if a run is broken off.
    """

    def __init__(self, workload: Workload, models: Models, seed: int) -> None:
        self.workload = workload
        self.steps: list[Step] = []
        self._models = models
        self._seed = seed
        self._embedder = EmbeddedBefore(models.embedder, workload.requests)
        self._nearest = nearest_earlier(self._embedder.vectors)
        self._reference: dict[str, str] = {}
        self.model = ICCacheChatModel(
            arms={"small": models.small, "large": models.large},
            reference=REFERENCE,
            costs={"small": SMALL_COST, "large": 1.0},
            store="memory://",
            embedder=self._embedder,
            reward=self._reward,
            background=False,
            task=TASK,
            settings=read_settings(
                max_examples=MAX_EXAMPLES,
                explore=EXPLORE,
                quality_target=QUALITY_TARGET,
                confidence=CONFIDENCE,
                cost_weight=COST_WEIGHT,
                deadline=DEADLINE,
                seed=seed,
            ),
        )

        self.model.engine.warm(DEFAULT_SCOPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()

    def run(self, view: View) -> None:
        """Send every request, showing each; what happened is in `steps`.

        Raises:
            ModelFailed: A model gave no answer.
        """
        compared = 0
        stride = max(1, len(self.workload.requests) // SAMPLE)
        for index in range(len(self.workload.requests)):
            step = self._step(index, sampled=index % stride == 0, compare=compared < SIDE_BY_SIDE)
            self.steps.append(step)
            view.show(self.steps)
            if len(self.steps) == EARLY and (warning := early_warning(self.steps, self.workload.reward)):
                view.warn(warning)
            if compared < SIDE_BY_SIDE and _is_full(step):
                compared += 1
                view.compare(compared, step)
            self.model.flush()
            if len(self.steps) % LEARN_EVERY == 0:
                self.model.engine.maintain()

    def attempt(self, request: str) -> Attempt:
        """The small model on any request, with the examples that IC-Cache chooses for it now; nothing is recorded.

        Raises:
            ModelFailed: The small model gave no answer.
        """
        messages = convert_to_messages(self.workload.messages(request))
        asked = build_request(normalised(messages), context=Context(task=TASK))
        examples = self.model.engine.decide(asked).selection.for_arm("small")
        shown = insert(messages, render(asked, examples, "chat"))
        return Attempt(self._ask_small(messages).text, self._ask_small(shown).text, examples)

    def _step(self, index: int, *, sampled: bool, compare: bool) -> Step:
        request = self.workload.requests[index]
        messages = convert_to_messages(self.workload.messages(request))
        reference = self._ask(self._models.large, messages, self._models.large_name)
        self._reference[request] = reference.text
        run_id = uuid5(NAMESPACE_OID, f"{self._seed}/{index}")
        # The large model has just answered, so that a failure in here is the small one's.
        answer = self._ask(self.model, messages, self._models.small_name, run_id)
        provenance = answer.response_metadata["iccache"]
        step = Step(
            number=index + 1,
            request=request,
            right=self.workload.answers.get(request, reference.text),
            is_known=request in self.workload.answers,
            arm=provenance["arm"],
            offloaded=provenance["arm"] != REFERENCE,
            examples=len(provenance["examples"]),
            explored=provenance["explored"],
            answer=answer.text,
            score=self._score(request, answer.text),
            large_score=self._score(request, reference.text),
            copied=self._copied(index),
            alone=None,
            tokens=(reference.usage_metadata["total_tokens"] or None) if reference.usage_metadata else None,
            flaw=_flaw(reference),
            fallback=provenance["reason"] if provenance["tier"] == "fallback" else "",
        )
        if not sampled and not (compare and _is_full(step)):
            return step
        alone = self._ask_small(messages).text
        return replace(step, alone=Alone(alone, self._score(request, alone), sampled))

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

    def _ask_small(self, messages: Sequence[BaseMessage]) -> AIMessage:
        return self._ask(self._models.small, messages, self._models.small_name)

    def _ask(
        self, model: BaseChatModel, messages: Sequence[BaseMessage], name: str, run_id: UUID | None = None
    ) -> AIMessage:
        try:
            return model.invoke(messages, RunnableConfig(run_id=run_id))
        except ICCacheError:
            raise
        except Exception as error:
            asked = shortened(messages[-1].text)
            raise ModelFailed(f"{name} gave no answer to {asked!r} ({reason(error)})") from error


def nearest_earlier(vectors: Vector) -> NDArray[np.intp]:
    """Index of the most similar earlier row of unit vectors (n, dimension), (n,); 0 for the first row."""
    similarity = vectors @ vectors.T
    similarity[np.triu_indices(len(vectors))] = -np.inf
    nearest: NDArray[np.intp] = similarity.argmax(axis=1)
    return nearest


def _is_full(step: Step) -> bool:
    """True if the small model answered with as many examples as it may be shown."""
    return step.offloaded and step.examples == MAX_EXAMPLES


def _flaw(answer: AIMessage) -> Flaw:
    """Why this answer of the large model cannot be an example."""
    outcome = outcome_of(answer)
    if finish_reason(answer.response_metadata) in CUT:
        return "cut"
    return "" if outcome.finished and outcome.answer.strip() else "unusable"
