"""The Example Manager in this process: stores decisions, and admits answers as examples."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from typing_extensions import override

from shared_core.errors import EmbedderDiffers
from shared_core.manager import Answer, Manager, Meeting, Stored
from shared_core.manager.admission import RULES, UNTRUSTED, Candidate, Rule, refusal
from shared_core.manager.decision_record import record_of
from shared_core.manager.examples import Examples
from shared_core.manager.waiting import WaitingAnswers
from shared_core.records import Example, Feedback, WaitingAnswer
from shared_core.settings import Settings
from shared_core.store.protocol import Admission, Store, Write
from shared_core.telemetry import Counters
from shared_core.values import Clock

LIMIT_EVERY: Final = 64  # admissions between two counts of a scope; a count of 10,000 takes 13 ms in SQLite
LIMIT_SHARE: Final = 64  # or the 64th part of the limit, if that is more


@dataclass(slots=True)
class _Plan:
    """What a batch writes, and what is to be done once it is stored. Positions are those in `writes`.

    Attributes:
        writes: What is written.
        waiting: Answers that wait, or will once this is stored, by decision.
        own: Examples by the position of their decision.
        late: Admissions of answers whose decision was stored before.
        claims: Answers that waited, and are to be admitted.
        to_meet: By decision, see `Stored`.
        unprepared: See `Stored`.
        refused: Counts by rule.
        admitted: Scopes of new examples by position.
        known: Number of answers that became no example, because there is one.
    """

    waiting: dict[str, WaitingAnswer]
    writes: list[Write] = field(default_factory=list)
    own: dict[int, Example] = field(default_factory=dict)
    late: dict[int, Admission] = field(default_factory=dict)
    claims: dict[int, WaitingAnswer] = field(default_factory=dict)
    to_meet: dict[str, Meeting] = field(default_factory=dict)
    unprepared: list[Answer] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    admitted: dict[int, str] = field(default_factory=dict)
    known: int = 0


class LocalManager(Manager):
    """A `Manager` of one store.

    Args:
        store: Holds decisions and examples, and the answers that wait for feedback.
        examples: Creates examples and enforces their limit.
        reference: The arm whose answers may become examples without feedback.
        settings: `trust_feedback`, `wait_answers` and `max_pool` are used.
        counters: Counts ``admitted``, ``known`` and ``refused`` by the rule's name.
        clock: Seconds since the epoch.
        rules: The rules of admission, in order; the first one that refuses an answer is counted.
    """

    def __init__(
        self,
        store: Store,
        examples: Examples,
        reference: str,
        settings: Settings,
        counters: Counters,
        clock: Clock,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._store = store
        self._examples = examples
        self._waiting = WaitingAnswers(store, settings, clock)
        self._reference = reference
        self._settings = settings
        self._counters = counters
        self._rules = rules
        self._limit_every = max(LIMIT_EVERY, settings.max_pool // LIMIT_SHARE)
        self._lock = threading.Lock()
        self._admitted: Counter[str] = Counter()  # by scope

    @override
    def store(self, items: Sequence[Answer | Write]) -> Stored:
        """Changes nothing but the store, so the call may be repeated."""
        ratings = [item.feedback for item in items if isinstance(item, Write)]
        plan, last = _Plan(dict(self._waiting.rated(ratings))), list[int]()
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
        scopes = [scope for position, scope in plan.admitted.items() if is_new[position]]
        self._count(plan, len(scopes))
        return Stored([is_new[position] for position in last], plan.unprepared, scopes, list(plan.to_meet.values()))

    @override
    def prepare(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        examples = self._examples.of_answers([(answer.decision, answer.outcome) for answer in answers])
        return [replace(answer, example=example) for answer, example in zip(answers, examples, strict=True)]

    @override
    def met(self, meetings: Sequence[Meeting]) -> Sequence[Feedback]:
        return self._waiting.met(meetings)

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
        if rating is not None and self._waiting.is_good(rating):
            if answer := plan.waiting.pop(rating.decision_id, None):
                plan.claims[len(plan.writes)] = answer
                plan.writes.append(Write())
                plan.to_meet.pop(rating.decision_id, None)
            else:
                plan.to_meet[rating.decision_id] = rating
        plan.writes.append(write)

    def _plan_answer(self, plan: _Plan, answer: Answer) -> None:
        refused = self._refusal(answer)
        if answer.example is not None:
            self._plan_prepared(plan, answer, answer.example, waits=bool(refused))
            return
        decision, outcome = answer.decision, answer.outcome
        record = record_of(decision, outcome, keep_vector=self._settings.log_vectors, refused=refused)
        plan.writes.append(Write(record))
        if refused:
            plan.refused[refused] += 1
        waits = refused == UNTRUSTED and self._settings.wait_answers > 0
        if not self._examples.can_be_made:
            plan.known += not refused
        elif refused and not waits:
            return
        elif not self._examples.is_ready(decision):
            plan.unprepared.append(replace(answer, scored=False) if waits else answer)
        else:
            [example] = self._examples.of_answers([(decision, outcome)])
            if waits:
                plan.writes[-1] = Write(record, waiting=self._to_wait(plan, answer, example))
            else:
                plan.own[len(plan.writes) - 1] = example

    def _plan_prepared(self, plan: _Plan, answer: Answer, example: Example, *, waits: bool) -> None:
        if waits:
            plan.writes.append(Write(waiting=self._to_wait(plan, answer, example)))
        else:
            plan.late[len(plan.writes)] = Admission(answer.decision.id, example.entry.scope, example, claims=False)
            plan.writes.append(Write())

    def _to_wait(self, plan: _Plan, answer: Answer, example: Example) -> WaitingAnswer:
        plan.waiting[answer.decision.id] = waiting = self._examples.waiting(answer.decision.id, example)
        plan.to_meet.setdefault(answer.decision.id, answer.decision.id)
        return waiting

    def _refusal(self, answer: Answer) -> str:
        is_trusted = answer.trusted or answer.decision.arm == self._reference
        return refusal(Candidate(answer.decision.request, answer.outcome, is_trusted), self._rules)

    def _admit(self, plan: _Plan) -> None:
        """Add the examples to the writes, except those to whose query the pool has a good answer."""
        if plan.own or plan.late:
            self._examples.claim_pool()
        claims = self._waiting.admissions(list(plan.claims.values()))
        admissions = {**plan.late, **dict(zip(plan.claims, claims, strict=True))}
        examples = [*plan.own.values(), *(a.example for a in admissions.values() if a.example)]
        known = self._examples.known(examples)
        for position, example in plan.own.items():
            decision = plan.writes[position].decision
            if decision and self._is_new(plan, known, position, example):
                plan.writes[position] = Write(replace(decision, admitted_id=example.entry.id), example)
        for position, admission in zip(admissions, self._waiting.credited(list(admissions.values())), strict=True):
            if admission.example and self._is_new(plan, known, position, admission.example):
                plan.writes[position] = Write(admission=admission)
            elif admission.claims:
                plan.writes[position] = Write(admission=replace(admission, example=None))

    def _is_new(self, plan: _Plan, known: set[tuple[str, str]], position: int, example: Example) -> bool:
        """True if the example is to be stored; the same question twice in one batch is one example."""
        identity = (example.entry.scope, example.entry.id)
        if identity in known:
            plan.known += 1
            return False
        known.add(identity)
        plan.admitted[position] = example.entry.scope
        return True

    def _count(self, plan: _Plan, admitted: int) -> None:
        self._counters.count("admitted", admitted)
        self._counters.count("known", plan.known)
        for reason, number in plan.refused.items():
            self._counters.count("refused", number, reason=reason)
