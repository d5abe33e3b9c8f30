"""The Example Manager in this process: decides what of an answered request is kept, and keeps it.

Nothing here stands on the request path, but `observe_exact`, which `BaseCache.update` waits for.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from shared_core.errors import EmbedderDiffers, SettingIsWrong
from shared_core.inference import Embedder
from shared_core.manager.admission import example_id, example_of, refusal
from shared_core.manager.privacy import Redact, redacted
from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.telemetry import Counters
from shared_core.values import Clock, Decision, DecisionRecord, ExactAnswer, Example, Outcome, Request, Source, Texts

POOR: Final = 0.5  # below this an answer is wrong: its exact answer leaves, its example may be replaced
LIMIT_EVERY: Final = 64  # admissions between two counts of a scope, which take 13 ms at 10,000 examples in SQLite
UNRATED_LIMIT: Final = 1024  # answers of untrusted arms that wait in memory for feedback good enough to admit them
POOR_LIMIT: Final = 1024  # ids of poor answers that are kept in memory until a cache has stored them, moments later


class LocalManager:
    """Admits, replaces and evicts examples of one store.

    Args:
        reference: The arm whose answers may become examples without feedback.
        embedder: None keeps decisions and exact answers only.
        redact: Applied to every text before it is embedded or stored.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        reference: str,
        settings: Settings,
        counters: Counters,
        clock: Clock,
        redact: Redact | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._reference = reference
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._redact = redact
        self._lock = threading.Lock()
        self._admitted: Counter[str] = Counter()  # by scope
        self._unrated: OrderedDict[str, tuple[Decision, Outcome]] = OrderedDict()
        self._poor: OrderedDict[str, None] = OrderedDict()  # judged so before their exact answer was linked

    def keep(self, decision: Decision, outcome: Outcome, score: float | None, *, trusted: bool = False) -> bool:
        """Store the decision, and its answer as an example if it may become one; True if it became one.

        Args:
            decision: What was decided, or for an answer of another's choice, who gave it.
            outcome: The answer.
            score: Its reward, if known.
            trusted: True if the adapter has settled that its writer may write examples (DESIGN.md §4.2).
        """
        reference = decision.arm if trusted else self._reference
        why_not = refusal(decision.request, outcome, decision.arm, reference, score, self._settings.trust_feedback)
        if why_not == "untrusted" and score is None:
            self._await_feedback(decision, outcome)
        return self._keep(decision, outcome, why_not)

    def keep_trusted(self, decision_id: str) -> bool:
        """Admit an answer that waited for good feedback; False if none (or no longer) waits in this process."""
        with self._lock:
            waiting = self._unrated.pop(decision_id, None)
        if waiting:
            self._keep(*waiting, None)
        return waiting is not None

    def observe_exact(self, decision: Decision, outcome: Outcome) -> None:
        """Store an answer for the exact tier; not where redaction would change what was asked or answered."""
        request, payload = decision.request, outcome.payload
        if payload is None or not request.store:
            return
        texts = (request.query, payload.decode("utf-8"))
        if tuple(redacted(t, self._redact) for t in texts) != texts:
            self._counters.add("exact.redacted")
            return
        key, now = request.exact_key, self._clock()
        answer = ExactAnswer(key, request.scope, payload, outcome.writer, decision.id, now)
        self._store.record(record_of(decision, outcome, exact_key=key), None, answer)

    def link_exact(self, decision_id: str, observed: Decision) -> None:
        """Let feedback on one decision reach the exact answer that was stored as another, `observed`; past one as well."""
        record = self._store.decisions([decision_id]).get(decision_id)
        known = record or replace(record_of(observed, Outcome("")), id=decision_id)
        self._store.record(replace(known, exact_key=observed.request.exact_key))
        with self._lock:
            is_poor = decision_id in self._poor
        if is_poor:
            self.judged_poor(decision_id)

    def keep_decision(self, decision: Decision) -> None:
        """Store a decision whose answer is not seen, for the examples that it gave."""
        self._store.record(record_of(decision, Outcome("")))

    def record_hit(self, decision: Decision, key: str) -> None:
        """Store that an exact answer was served, so that feedback can reach it."""
        self._store.record(record_of(decision, Outcome(""), exact_key=key))

    def judged_poor(self, decision_id: str) -> None:
        """Remove the exact answer that this decision stored or served."""
        with self._lock:
            self._poor[decision_id] = None
            if len(self._poor) > POOR_LIMIT:
                self._poor.popitem(last=False)
        record = self._store.decisions([decision_id]).get(decision_id)
        if record and record.exact_key and self._store.forget_exact(record.exact_key):
            self._counters.add("exact.removed")

    def add(
        self, pairs: Sequence[tuple[str, str]], *, scope: str, task: str, source: Source, writer: str
    ) -> Sequence[str]:
        """Put (query, answer) pairs into the pool; see `Engine.add_examples`."""
        if self._embedder is None:
            raise SettingIsWrong("examples need an embedder; give one to the constructor")
        if any(not query.strip() or not answer.strip() for query, answer in pairs):
            raise SettingIsWrong("an example needs a query and an answer that are not empty")
        texts = [Texts(redacted(query, self._redact), redacted(answer, self._redact)) for query, answer in pairs]
        vectors = self._embedder.embed([t.query for t in texts])
        claim_embedder(self._store, self._embedder)
        now = self._clock()
        examples = [
            example_of(t, vector, scope=scope, task=task, source=source, writer=writer, now=now)
            for t, vector in zip(texts, vectors, strict=True)
        ]
        self._store.put(examples)
        self.keep_within_limit(scope)
        return [example.entry.id for example in examples]

    def keep_within_limit(self, scope: str) -> int:
        """Evict the oldest examples beyond `max_pool`; returns how many."""
        excess = self._store.count(scope) - self._settings.max_pool
        return self._store.delete(scope, self._store.oldest(scope, excess)) if excess > 0 else 0

    def _keep(self, decision: Decision, outcome: Outcome, why_not: str | None) -> bool:
        example = None
        if not why_not:
            try:
                example = self._new_example(decision, outcome)
            except Exception:
                self._store.record(record_of(decision, outcome))  # the decision is worth keeping in any case
                raise
        self._counters.add(f"refused.{why_not}" if why_not else "admitted" if example else "known")
        admitted = example.entry.id if example else ""
        exact_key = decision.request.exact_key if outcome.payload is not None else ""
        self._store.record(record_of(decision, outcome, exact_key=exact_key, admitted_id=admitted), example)
        if example:
            scope = decision.request.scope
            self._admitted[scope] += 1
            if self._admitted[scope] % LIMIT_EVERY == 1:
                self.keep_within_limit(scope)
        return example is not None

    def _new_example(self, decision: Decision, outcome: Outcome) -> Example | None:
        """The example that this answer becomes; None if the pool keeps an answer to the same query already."""
        if self._embedder is None:
            return None
        request = decision.request
        vector = decision.selection.vector
        # What was embedded for the selection was redacted before; a second time it might become another text.
        query = redacted(request.query, self._redact) if vector is None else request.query
        texts = Texts(query, redacted(outcome.answer, self._redact))
        if self._has_good_answer(request.scope, example_id(request.scope, request.task, texts.query)):
            return None
        if vector is None:
            vector = self._embedder.embed([texts.query])[0]
        claim_embedder(self._store, self._embedder)
        return example_of(
            texts,
            vector,
            scope=request.scope,
            task=request.task,
            source="traffic",
            writer=outcome.writer or decision.arm,
            now=self._clock(),
            exact_key=request.exact_key if outcome.payload is not None else "",
        )

    def _has_good_answer(self, scope: str, known: str) -> bool:
        rows = self._store.rows(scope, [known])
        if not rows:
            return False
        quality = rows[0].entry.statistics.quality
        return quality.count == 0 or quality.value >= POOR

    def _await_feedback(self, decision: Decision, outcome: Outcome) -> None:
        with self._lock:
            self._unrated[decision.id] = (decision, replace(outcome, payload=None))
            if len(self._unrated) > UNRATED_LIMIT:
                self._unrated.popitem(last=False)


def claim_embedder(store: Store, embedder: Embedder) -> None:
    """Make `embedder` the pool's, or make sure that it is.

    Raises:
        EmbedderDiffers: The pool was written with another one.
    """
    claimed = store.claim("embedder", embedder.tag)
    if claimed != embedder.tag:
        raise EmbedderDiffers(claimed, embedder.tag)


def record_of(decision: Decision, outcome: Outcome, *, exact_key: str = "", admitted_id: str = "") -> DecisionRecord:
    """What is kept of a decision: ids and features, no text."""
    request: Request = decision.request
    route = decision.route
    return DecisionRecord(
        id=decision.id,
        scope=request.scope,
        task=request.task,
        arm=route.arm,
        features=route.features,
        example_ids=tuple(e.id for e in decision.given),
        propensity=route.propensity,
        explored=route.explored,
        version=route.version,
        created_at=decision.created_at,
        exact_key=exact_key,
        admitted_id=admitted_id,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
    )
