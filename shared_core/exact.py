"""The exact tier: stored answers for identical requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial
from typing import Final

from shared_core.guard import Step, Steps
from shared_core.manager.decision_record import record_of
from shared_core.manager.decisions import Decisions
from shared_core.manager.privacy import Redact, redacted
from shared_core.records import ExactAnswer
from shared_core.store.protocol import Store, Write
from shared_core.telemetry import Counters
from shared_core.values import Clock, Decision, Outcome, Request

RETRACTED_LIMIT: Final = 1024  # ids of poor answers, remembered until a cache stores these answers moments later


class ExactTier:
    """Stores, serves and retracts answers of identical requests.

    Args:
        store: Holds the answers.
        decisions: Says which decision stored or served an answer.
        counters: Counts ``exact.redacted`` and ``exact.removed``.
        clock: Seconds since the epoch.
        redact: A request or answer that it changes is not stored.
    """

    def __init__(
        self, store: Store, decisions: Decisions, counters: Counters, clock: Clock, redact: Redact | None = None
    ) -> None:
        self._store = store
        self._decisions = decisions
        self._counters = counters
        self._clock = clock
        self._redact = redact
        self._lock = threading.Lock()
        self._retracted: OrderedDict[str, None] = OrderedDict()

    @property
    def redacts(self) -> bool:
        """True if `answer_of` calls the user's function, which may take long."""
        return self._redact is not None

    def get(self, request: Request) -> Steps[ExactAnswer | None]:
        """The stored answer of an identical request, or None."""
        answer: ExactAnswer | None = yield Step("store", partial(self._store.exact, request.exact_key))
        return answer

    def hit(self, decision: Decision, answer: ExactAnswer) -> Write:
        """What records that an answer was served; feedback on `decision` can then reach it."""
        return Write(record_of(decision, Outcome("", payload=answer.payload)))

    def put(self, decision: Decision, outcome: Outcome) -> None:
        """Store an answer, if `answer_of` has one and the store can be written."""
        if not self._store.is_read_only and (write := self.answer_of(decision, outcome)) is not None:
            self._store.write([write])

    def answer_of(self, decision: Decision, outcome: Outcome) -> Write | None:
        """What stores an answer; None if it must not be stored, or if redaction would change the query or the answer.

        Raises:
            RedactionFailed: The redaction function failed.
        """
        request, payload = decision.request, outcome.payload
        if payload is None or not request.store:
            return None
        texts = (request.query, payload.decode("utf-8"))
        if tuple(redacted(text, self._redact) for text in texts) != texts:
            self._counters.count("exact.redacted")
            return None
        answer = ExactAnswer(request.exact_key, request.scope, payload, outcome.writer, decision.id, self._clock())
        return Write(record_of(decision, outcome), exact=answer)

    def link(self, decision_id: str, observed: Decision) -> None:
        """Link a decision to the answer stored by `observed`; feedback on it then reaches the answer, also past one."""
        self._decisions.link(decision_id, observed.request.exact_key, observed)
        if self.is_retracted(decision_id):
            self.retract(decision_id)

    def retract(self, decision_id: str) -> None:
        """Delete the answer that this decision stored or served, or that is linked to it later."""
        with self._lock:
            self._retracted[decision_id] = None
            if len(self._retracted) > RETRACTED_LIMIT:
                self._retracted.popitem(last=False)
        key = self._decisions.exact_key(decision_id)
        if key and self._store.forget_exact(key):
            self._counters.count("exact.removed")

    def is_retracted(self, decision_id: str) -> bool:
        """True if `retract` was called for this decision, and not long ago."""
        with self._lock:
            return decision_id in self._retracted
