"""The Example Manager in this process: stores decisions, and admits answers as examples."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from typing_extensions import override

from shared_core.errors import EmbedderDiffers
from shared_core.manager import Answer, Manager, Stored
from shared_core.manager.admission import RULES, UNTRUSTED, Candidate, Rule, refusal
from shared_core.manager.decision_record import record_of
from shared_core.manager.examples import Examples
from shared_core.records import Example
from shared_core.settings import Settings
from shared_core.store.protocol import Store, Write
from shared_core.telemetry import Counters

LIMIT_EVERY: Final = 64  # admissions between two counts of a scope; a count of 10,000 takes 13 ms in SQLite
LIMIT_SHARE: Final = 64  # or the 64th part of the limit, if that is more
WAITING_LIMIT: Final = 1024  # answers of untrusted arms that wait in memory for good feedback


@dataclass(slots=True)
class _Plan:
    """What a batch writes, and what is to be done once it is stored."""

    writes: list[Write] = field(default_factory=list)
    candidates: dict[int, tuple[Answer, Example]] = field(default_factory=dict)  # by position in `writes`
    again: set[int] = field(default_factory=set)  # positions of decisions that were stored before
    unprepared: list[Answer] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    judged: list[str] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)  # scopes
    known: int = 0


class LocalManager(Manager):
    """A `Manager` of one store. Answers that wait for feedback are kept in this process.

    Args:
        store: Holds decisions and examples.
        examples: Creates examples and enforces their limit.
        reference: The arm whose answers may become examples without feedback.
        settings: `trust_feedback` and `max_pool` are used.
        counters: Counts ``admitted``, ``known`` and ``refused`` by the rule's name.
        rules: The rules of admission, in order; the first one that refuses an answer is counted.
    """

    def __init__(
        self,
        store: Store,
        examples: Examples,
        reference: str,
        settings: Settings,
        counters: Counters,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._store = store
        self._examples = examples
        self._reference = reference
        self._settings = settings
        self._counters = counters
        self._rules = rules
        self._limit_every = max(LIMIT_EVERY, settings.max_pool // LIMIT_SHARE)
        self._lock = threading.Lock()
        self._admitted: Counter[str] = Counter()  # by scope
        self._waiting: OrderedDict[str, Answer] = OrderedDict()

    @override
    def store(self, items: Sequence[Answer | Write]) -> Stored:
        """Changes nothing but the store until that has accepted the batch, so the call may be repeated."""
        plan, last = _Plan(), list[int]()
        for item in items:
            if isinstance(item, Answer):
                self._plan_answer(plan, item)
            else:
                self._plan_write(plan, item)
            last.append(len(plan.writes) - 1)
        try:
            self._admit(plan)
        except EmbedderDiffers:
            self._store.write(plan.writes)
            raise
        is_new = self._store.write(plan.writes)
        self._count(plan)
        return Stored([is_new[position] for position in last], plan.unprepared, plan.admitted)

    @override
    def prepare(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        examples = self._examples.of_answers([(answer.decision, answer.outcome) for answer in answers])
        return [replace(answer, example=example) for answer, example in zip(answers, examples, strict=True)]

    @override
    def keep_within_limit(self, scope: str) -> None:
        with self._lock:
            self._admitted[scope] += 1
            is_due = self._admitted[scope] % self._limit_every == 1
        if is_due:
            self._examples.keep_within_limit(scope)

    @override
    def maintain(self) -> int:
        return self._examples.keep_within_limits()

    # the plan of a batch --------------------------------------------------------------------------------------

    def _plan_write(self, plan: _Plan, write: Write) -> None:
        rating = write.feedback
        if rating is not None and rating.score >= self._settings.trust_feedback:
            with self._lock:
                waiting = self._waiting.get(rating.decision_id)
            if waiting is not None and rating.decision_id not in plan.judged:
                plan.judged.append(rating.decision_id)
                self._plan_answer(plan, replace(waiting, score=rating.score))
        plan.writes.append(write)

    def _plan_answer(self, plan: _Plan, answer: Answer) -> None:
        decision, outcome = answer.decision, answer.outcome
        plan.writes.append(Write(record_of(decision, outcome, keep_vector=self._settings.log_vectors)))
        if answer.example is not None or answer.score is not None:
            plan.again.add(len(plan.writes) - 1)
        if answer.example is not None:
            plan.candidates[len(plan.writes) - 1] = answer, answer.example
            return
        refused = self._refusal(answer)
        if refused:
            plan.refused[refused] += 1
            if refused == UNTRUSTED and answer.score is None:
                self._wait_for_feedback(answer)
        elif self._examples.can_be_made and self._examples.is_ready(decision):
            [example] = self._examples.of_answers([(decision, outcome)])
            plan.candidates[len(plan.writes) - 1] = answer, example
        elif self._examples.can_be_made:
            plan.unprepared.append(answer)
        else:
            plan.known += 1

    def _refusal(self, answer: Answer) -> str:
        candidate = Candidate(
            answer.decision.request,
            answer.outcome,
            is_trusted=answer.trusted or answer.decision.arm == self._reference,
            score=answer.score,
            trust=self._settings.trust_feedback,
        )
        return refusal(candidate, self._rules)

    def _admit(self, plan: _Plan) -> None:
        """Add the examples to the writes, except those to whose query the pool has a good answer."""
        self._keep_links(plan)
        known = self._examples.known([example for _, example in plan.candidates.values()])
        for position, (_, example) in plan.candidates.items():
            entry, decision = example.entry, plan.writes[position].decision
            if (entry.scope, entry.id) in known or decision is None:
                plan.known += 1
                continue
            known.add((entry.scope, entry.id))
            plan.writes[position] = Write(replace(decision, admitted_id=entry.id), example)
            plan.admitted.append(entry.scope)

    def _keep_links(self, plan: _Plan) -> None:
        """Keep the exact answers that were linked to a decision since it was stored."""
        again = {position: write.decision for position, write in enumerate(plan.writes) if position in plan.again}
        ids = [decision.id for decision in again.values() if decision]
        stored = self._store.decisions(ids) if ids else {}
        for position, decision in again.items():
            if decision and not decision.exact_key and decision.id in stored:
                plan.writes[position] = Write(replace(decision, exact_key=stored[decision.id].exact_key))

    def _count(self, plan: _Plan) -> None:
        self._counters.count("admitted", len(plan.admitted))
        self._counters.count("known", plan.known)
        for reason, number in plan.refused.items():
            self._counters.count("refused", number, reason=reason)
        with self._lock:
            for decision_id in plan.judged:
                self._waiting.pop(decision_id, None)

    def _wait_for_feedback(self, answer: Answer) -> None:
        with self._lock:
            outcome = replace(answer.outcome, payload=None)
            self._waiting[answer.decision.id] = replace(answer, outcome=outcome, scored=False)
            if len(self._waiting) > WAITING_LIMIT:
                self._waiting.popitem(last=False)
