"""The whole way of a request, from top to bottom: lookup, decide, record, feedback, maintain, close.

`lookup` and `decide` are on the request path: they never raise and never delay a request beyond the deadline.
`record` and `feedback` return once the data is stored, and raise (`StoreIsAway`) if it cannot be. Adapters use the `submit_` forms,
which leave both to the writer. The engine never calls a model to answer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar
from uuid import uuid4

from shared_core.assembly import Components, after_fork, engine_spec
from shared_core.errors import ConfigurationError, DependencyIsDown, DependencyIsSlow, StoreIsUnusable
from shared_core.failures import Attempt, Failures, cause_of
from shared_core.guard import Step, Steps
from shared_core.guard.deadline import Deadline
from shared_core.inference import Embedder
from shared_core.learning.learner import MaintainReport
from shared_core.manager import Answer
from shared_core.manager.decision_record import UNKNOWN_OUTCOME, record_of
from shared_core.manager.privacy import Redact, redacted
from shared_core.prompt import render
from shared_core.records import Feedback, LearnRound, Source
from shared_core.reward import Reward, check_rating, comparison
from shared_core.router.load import CallsInFlight
from shared_core.selector.summary import summary
from shared_core.settings import Settings
from shared_core.sharing import Shared
from shared_core.store.address import StoreLike
from shared_core.store.protocol import Write
from shared_core.telemetry import Counters
from shared_core.values import EXACT, UNROUTED, Arm, Clock, Decision, Hit, Outcome, Request, Route, Selection, Style

T = TypeVar("T")


class Engine(Shared):
    """Selection, routing and example management over one store.

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), a file's path, or an open store, which stays open.
        arms: The candidate models; empty if only the exact tier and the pool are used.
        reference: The arm whose quality is the yardstick, and which answers when IC-Cache cannot decide.
        embedder: Turns queries into vectors; with None, only the exact tier works.
        settings: Every other option.
        reward: Scores (request, answer) in [0, 1], or returns None for no opinion; a function or a coroutine function.
            `request.query` is the question's text. Runs once the answer is stored, on up to `score_threads` threads at
            once. If it fails, the answer stays without a score.
        redact: Applied to texts before they are embedded or stored.
        background: False starts no loops; `maintain` then does their work.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: The arguments contradict each other.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
    """

    def __init__(
        self,
        *,
        store: StoreLike,
        arms: Sequence[Arm] = (),
        reference: str | None = None,
        embedder: Embedder | None = None,
        settings: Settings | None = None,
        reward: Reward | None = None,
        redact: Redact | None = None,
        background: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self.settings = settings or Settings()
        self.counters = Counters()
        self.in_flight = CallsInFlight()
        self.failures = Failures(self.counters)
        self._reference = reference or ""
        self._redact = redact
        self._clock = clock
        self._lock = threading.Lock()
        self._spec = engine_spec(
            store, arms, reference, embedder, self.settings, redact, reward=reward, background=background, clock=clock
        )
        self._arms = {arm.name: arm for arm in self._spec.arms}
        self._local = Components(self._spec, self.counters)
        self._pid = os.getpid()

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The candidate models by name."""
        return MappingProxyType(self._arms)

    # on the request path --------------------------------------------------------------------------------------

    def lookup(self, request: Request) -> Hit | None:
        """The stored answer of an identical request, or None. A failure is counted, and is a miss."""
        return self._run(self._lookup(request))

    async def alookup(self, request: Request) -> Hit | None:
        """`lookup` for event loops. Like the other forms with an ``a``, it occupies no waiting thread."""
        return await self._arun(self._lookup(request))

    def decide(self, request: Request, decision_id: str | None = None) -> Decision:
        """Choose the arm that answers, and its examples. Needs arms.

        The decision depends only on request, state, seed and `decision_id`.
        """
        return self._run(self._decide(request, decision_id or uuid4().hex))

    async def adecide(self, request: Request, decision_id: str | None = None) -> Decision:
        """`decide` for event loops; the same decision."""
        return await self._arun(self._decide(request, decision_id or uuid4().hex))

    def select(self, request: Request, decision_id: str | None = None, *, arm: str = UNROUTED) -> Decision:
        """Choose examples for any model, rendered as chat turns; for surfaces that do not choose the model.

        `arm` names the answering model in the record, which keeps the statistics of models apart.
        """
        return self._run(self._select(request, decision_id or uuid4().hex, Arm(arm, 0.0)))

    async def aselect(self, request: Request, decision_id: str | None = None, *, arm: str = UNROUTED) -> Decision:
        """`select` for event loops; the same examples."""
        return await self._arun(self._select(request, decision_id or uuid4().hex, Arm(arm, 0.0)))

    def observe(self, request: Request, outcome: Outcome, *, admit: bool, router_decision_id: str = "") -> str:
        """Store an answer that IC-Cache did not route (`BaseCache.update`); returns its decision id.

        The exact answer is stored before this returns. If that takes longer than the deadline, or if the last call to
        the store failed, the writer stores it later. The writer always stores the example, which needs an embedding.
        Never raises.

        Args:
            request: The request.
            outcome: The answer.
            admit: True if the adapter allows the answer to become an example.
            router_decision_id: The decision in the answer's own provenance: feedback on it reaches the exact answer.
        """
        return self._run(self._observe(request, outcome, admit, router_decision_id))

    async def aobserve(self, request: Request, outcome: Outcome, *, admit: bool, router_decision_id: str = "") -> str:
        """`observe` for event loops."""
        return await self._arun(self._observe(request, outcome, admit, router_decision_id))

    def _lookup(self, request: Request) -> Attempt[Components, Hit | None]:
        def steps(components: Components) -> Steps[Hit | None]:
            answer = yield from components.exact.get(request)
            self.counters.count("lookup.hit" if answer else "lookup.miss")
            if answer is None:
                return None
            hit = Hit(uuid4().hex, answer)
            decision = Decision(hit.decision_id, request, Route(EXACT, reason="exact hit"), created_at=self._clock())
            components.recorder.submit(components.exact.hit(decision, answer))
            return hit

        return Attempt(steps, lambda error: self.failed("lookup", error))

    def _decide(self, request: Request, identity: str) -> Attempt[Components, Decision]:
        def steps(components: Components) -> Steps[Decision]:
            if components.router is None:
                raise ConfigurationError("decide needs arms, but this engine has none; pass arms=… to Engine")
            cleaned = yield from self._redacted(request)
            selection = yield from self._selection(components, cleaned, tuple(self._arms.values()))
            if components.router.may_block:
                yield Step("routing", object)  # not the name of the router's own steps, whose breaker this would reset
            route = yield from components.router.route(cleaned, selection, identity)
            return self._decided(identity, cleaned, route, selection, self._arms[route.arm].style)

        return Attempt(steps, lambda error: self._fallback(request, identity, self._in_doubt(request, error), error))

    def _select(self, request: Request, identity: str, arm: Arm) -> Attempt[Components, Decision]:
        def steps(components: Components) -> Steps[Decision]:
            cleaned = yield from self._redacted(request)
            selection = yield from self._selection(components, cleaned, (arm,))
            route = Route(arm.name, reason=summary(selection, arm.name))
            return self._decided(identity, cleaned, route, selection, arm.style)

        return Attempt(steps, lambda error: self._fallback(request, identity, Route(arm.name), error))

    def _observe(
        self, request: Request, outcome: Outcome, admit: bool, router_decision_id: str
    ) -> Attempt[Components, str]:
        route = Route(outcome.writer or self._reference, reason="observed")
        decision = Decision(uuid4().hex, request, route, created_at=self._clock())

        def submit_rest(components: Components) -> str:
            if router_decision_id and outcome.payload is not None and request.store:
                components.recorder.submit_call(components.exact.link, router_decision_id, decision)
            if admit:
                components.recorder.submit(Answer(decision, outcome, trusted=True, scored=False))
            return decision.id

        def steps(components: Components) -> Steps[str]:
            if components.guard.is_failing("store"):  # another attempt would only make the caller wait
                components.recorder.submit_exact(decision, outcome)
            else:
                yield Step("store", partial(components.exact.put, decision, outcome))
            return submit_rest(components)

        def on_failure(error: Exception) -> str:
            self.failed("observe", error)
            if isinstance(error, DependencyIsSlow | DependencyIsDown):  # it may be stored; storing twice is harmless
                components = self._components()
                components.recorder.submit_exact(decision, outcome)
                return submit_rest(components)
            return decision.id

        return Attempt(steps, on_failure)

    def _redacted(self, request: Request) -> Steps[Request]:
        """The request with its query redacted."""
        if self._redact is None:
            return request
        query = yield Step("redact", partial(redacted, request.query, self._redact))
        return replace(request, query=query)

    def _selection(self, components: Components, request: Request, arms: Sequence[Arm]) -> Steps[Selection]:
        if components.selector is None or not request.examples_allowed:
            return Selection()
        return (yield from components.selector.select(request, arms))

    def _decided(self, identity: str, request: Request, route: Route, selection: Selection, style: Style) -> Decision:
        """The decision, with its examples rendered."""
        insertion = render(request, selection.for_arm(route.arm), style)
        self.failures.note_decided(route.arm)
        return Decision(identity, request, route, selection, insertion, created_at=self._clock())

    def _in_doubt(self, request: Request, error: Exception) -> Route:
        """The reference; if the examples only came too late, a cheaper arm that is good enough without them."""
        router = self._components().router if isinstance(error, DependencyIsSlow | DependencyIsDown) else None
        with suppress(Exception):  # fail open: a router of the user may raise here, too
            return router.without_examples(request) if router else Route(self._reference)
        return Route(self._reference)

    def _fallback(self, request: Request, identity: str, route: Route, error: Exception) -> Decision:
        self.failures.note_fallback(error)
        route = replace(route, reason="; ".join(filter(None, (cause_of(error), route.reason))))
        return Decision(identity, request, route, fallback=True, created_at=self._clock())

    def _run(self, attempt: Attempt[Components, T]) -> T:
        """Make an attempt within the deadline; this thread waits."""
        try:
            components = self._components()
            return components.guard.run(Deadline(self.settings.deadline, time.monotonic), attempt.steps(components))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return attempt.on_failure(error)

    async def _arun(self, attempt: Attempt[Components, T]) -> T:
        """`_run` on an event loop."""
        try:
            components = self._components()
            deadline = Deadline(self.settings.deadline, time.monotonic)
            return await components.guard.arun(deadline, attempt.steps(components))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return attempt.on_failure(error)

    # the arm's call -------------------------------------------------------------------------------------------

    def started(self, decision: Decision) -> None:
        """Report the start of the arm's call. Each call of this must be followed by one of `paused` or `ended`."""
        self.in_flight.started(decision.arm)

    def paused(self, decision: Decision) -> None:
        """Report an open stream that is not read yet; it is not in flight until it is `started` again."""
        self.in_flight.ended(decision.arm)

    def ended(self, decision: Decision, outcome: Outcome) -> None:
        """Report that the arm has answered or failed, or that its reader has stopped."""
        self.in_flight.ended(decision.arm)
        self.counters.observe("arm.seconds", outcome.seconds, arm=decision.arm)
        if outcome.first_token is not None:
            self.counters.observe("arm.first_token", outcome.first_token, arm=decision.arm)
        if outcome.error:
            self.counters.count("arm.failed", arm=decision.arm, error=outcome.error)

    # once the answer is there ---------------------------------------------------------------------------------

    def record(self, decision: Decision, outcome: Outcome, *, trusted: bool = False) -> None:
        """Store the decision, and maybe an example, then score the answer; all is durable when this returns.

        A truncated answer is scored, because the user got it, but never becomes an example. `trusted` is True if the
        adapter trusts the writer of an answer that IC-Cache did not route.
        """
        self._components().recorder.record(Answer(decision, outcome, trusted))

    def feedback(self, decision_id: str, score: float, rater: str = "user") -> bool:
        """Append a rating in [0, 1] to the log; False if this rater has rated this decision before.

        A poor score also deletes the exact answer that the decision stored or served. A good score admits the answer
        of an untrusted arm as an example.

        Raises:
            ConfigurationError: The score is not within [0, 1].
        """
        check_rating(score, rater)
        return self._components().recorder.rate(Feedback(decision_id, rater, float(score), self._clock()))

    def prefer(self, better: str, worse: str, rater: str = "user") -> bool:
        """Append to the log that decision `better` had the better answer; False if this rater compared the two before."""
        return self._components().recorder.rate(comparison(better, worse, rater, self._clock()))

    def submit_record(self, decision: Decision, outcome: Outcome, *, trusted: bool = False) -> None:
        """`record` in the background: never blocks, never raises. Only the record itself is on the writer."""
        self._submit(Answer(decision, outcome, trusted))

    def submit_decision(self, decision: Decision, outcome: Outcome = UNKNOWN_OUTCOME) -> None:
        """Store a decision without its answer, on the writer; feedback can then reach its examples.

        `outcome` says how a call without an answer ended.
        """
        self._submit(Write(record_of(decision, outcome, keep_vector=self.settings.log_vectors)))

    def submit_feedback(self, decision_id: str, score: float, rater: str = "user") -> None:
        """`feedback` on the writer, after earlier records: never blocks.

        Raises:
            ConfigurationError: The score is not within [0, 1].
        """
        check_rating(score, rater)
        self._submit(Write(feedback=Feedback(decision_id, rater, float(score), self._clock())))

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """Call `function` on the writer, after earlier jobs: never blocks, never raises. It should end soon."""
        try:
            self._components().recorder.submit_call(function, *args)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.failed("submit", error)

    def _submit(self, item: Answer | Write) -> None:
        try:
            self._components().recorder.submit(item)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.failed("submit", error)

    # keeping examples -----------------------------------------------------------------------------------------

    def add_examples(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        scope: str,
        task: str,
        source: Source = "import",
        writer: str = "",
    ) -> Sequence[str]:
        """Store (query, answer) pairs durably, embedded in one batch; returns their ids in order.

        An example with the same query is replaced, because imports and corrections are meant to be right.

        Raises:
            ConfigurationError: The engine has no embedder, or a text is empty.
        """
        ids = self._components().examples.add(pairs, scope=scope, task=task, source=source, writer=writer)
        self._components().refresh()
        return ids

    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Delete examples and their exact answers durably; returns how many existed."""
        removed = self._components().examples.delete(scope, ids)
        self._components().refresh()
        return removed

    def clear(self, scope: str | None = None) -> int:
        """Delete examples, exact and waiting answers and decisions of a scope, or of all; returns the number of examples."""
        removed = self._components().examples.clear(scope)
        self._components().refresh()
        return removed

    def warm(self, scope: str) -> None:
        """Load a scope and the embedder's model; without this, the first request falls back."""
        pool = self._components().pool
        if pool and self._spec.embedder:
            self._spec.embedder.embed(["warm"])
            pool.warm(scope)

    def failed(self, where: str, error: Exception) -> None:
        """Count and log an error that does not reach the user's call, as ``<where>.failed{error}``."""
        self.failures.count(f"{where}.failed", error)

    def maintain(self) -> MaintainReport:
        """Run one round of maintenance here: learn, publish, evict, trim the log, follow the feed, adopt, rebuild."""
        components = self._components()
        learned = components.learner.run_until_drained()
        evicted = components.manager.maintain()
        components.store.trim_decisions()
        changed = components.refresh()
        if components.pool:
            components.pool.maintain()
        return MaintainReport(learned, changed, evicted)

    def rounds(self) -> Sequence[LearnRound]:
        """What the last rounds of learning did to each part, the newest first, whichever process learned."""
        return self._components().store.rounds()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was submitted is stored and scored.

        Returns:
            False if that takes longer than `timeout` seconds (by default the setting `drain`), if something was lost
            since the last call (dropped because too much was waiting, or refused for good), or in a forked child that
            cannot open the store, which stores nothing.
        """
        try:
            return self._components().recorder.lanes.flush(timeout)
        except StoreIsUnusable as error:
            self.failed("flush", error)
            return False

    def close(self) -> None:
        """Store what is pending, within `drain` seconds; say what is not stored; close what the engine has opened."""
        self._local.close()

    # private --------------------------------------------------------------------------------------------------

    def _components(self) -> Components:
        """This process's components; built again in a forked child, which lacks threads and connections."""
        if os.getpid() != self._pid:
            with self._lock:
                if os.getpid() != self._pid:
                    self._local = after_fork(self._spec, self.counters)
                    self._pid = os.getpid()
        return self._local
