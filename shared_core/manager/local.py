"""The Example Manager in this process: admits answers as examples."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from typing_extensions import override

from shared_core.manager import Admission, Manager
from shared_core.manager.admission import RULES, UNTRUSTED, Candidate, Rule, refusal
from shared_core.manager.decisions import Decisions
from shared_core.manager.examples import Examples
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Decision, Outcome

LIMIT_EVERY: Final = 64  # admissions between two counts of a scope; a count of 10,000 takes 13 ms in SQLite
WAITING_LIMIT: Final = 1024  # answers of untrusted arms that wait in memory for good feedback


class LocalManager(Manager):
    """A `Manager` of one store. Answers that wait for feedback are kept in this process.

    Args:
        decisions: Records each decision, with the example that its answer became.
        examples: Creates examples and enforces their limit.
        reference: The arm whose answers may become examples without feedback.
        settings: `trust_feedback` is used.
        counters: Counts ``admitted``, ``known`` and ``refused`` by the rule's name.
        rules: The rules of admission, in order; the first one that refuses an answer is counted.
    """

    def __init__(
        self,
        decisions: Decisions,
        examples: Examples,
        reference: str,
        settings: Settings,
        counters: Counters,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._decisions = decisions
        self._examples = examples
        self._reference = reference
        self._settings = settings
        self._counters = counters
        self._rules = rules
        self._lock = threading.Lock()
        self._admitted: Counter[str] = Counter()  # by scope
        self._waiting: OrderedDict[str, tuple[Decision, Outcome]] = OrderedDict()

    @override
    def admit(self, decision: Decision, outcome: Outcome, score: float | None, *, trusted: bool = False) -> Admission:
        candidate = Candidate(
            decision.request,
            outcome,
            is_trusted=trusted or decision.arm == self._reference,
            score=score,
            trust=self._settings.trust_feedback,
        )
        refused = refusal(candidate, self._rules)
        if refused == UNTRUSTED and score is None:
            self._wait_for_feedback(decision, outcome)
        if refused:
            self._counters.count("refused", reason=refused)
            self._decisions.record(decision, outcome)
            return Admission(refused=refused)
        return self._admit(decision, outcome)

    @override
    def judged(self, decision_id: str, score: float) -> Admission:
        if score < self._settings.trust_feedback:
            return Admission()
        with self._lock:
            waiting = self._waiting.pop(decision_id, None)
        return self._admit(*waiting) if waiting else Admission()

    @override
    def maintain(self) -> int:
        return self._examples.keep_within_limits()

    def _admit(self, decision: Decision, outcome: Outcome) -> Admission:
        """Store decision and example; the decision also if the example cannot be made."""
        try:
            example = self._examples.of_answer(decision, outcome)
        except Exception:
            self._decisions.record(decision, outcome)
            raise
        if example is None:
            self._counters.count("known")
            self._decisions.record(decision, outcome)
            return Admission()
        self._counters.count("admitted")
        self._decisions.record(decision, outcome, example=example)
        self._keep_within_limit(decision.request.scope)
        return Admission(example.entry.id)

    def _keep_within_limit(self, scope: str) -> None:
        self._admitted[scope] += 1
        if self._admitted[scope] % LIMIT_EVERY == 1:
            self._examples.keep_within_limit(scope)

    def _wait_for_feedback(self, decision: Decision, outcome: Outcome) -> None:
        with self._lock:
            self._waiting[decision.id] = (decision, replace(outcome, payload=None))
            if len(self._waiting) > WAITING_LIMIT:
                self._waiting.popitem(last=False)
