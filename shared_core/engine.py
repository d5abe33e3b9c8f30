"""The whole way of a request, from top to bottom: lookup, decide, record, feedback, maintain, close.

`lookup` and `decide` stand on the request path: they never raise and never hold a request past the deadline
(DESIGN.md §4.5). `record` and `feedback` return once the store has it, and raise if it does not. Adapters hand
those two to the FIFO writer with the `submit_` forms. The engine never calls a model to answer.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Final, TypeAlias
from uuid import uuid4

from shared_core import parts as local
from shared_core.errors import (
    DependencyIsDown,
    DependencyIsSlow,
    EmbedderDiffers,
    ExtraIsMissing,
    SettingIsWrong,
    StoreIsUnusable,
)
from shared_core.guard import Deadline, Step, Steps
from shared_core.inference import Embedder
from shared_core.learning.learner import LearnReport
from shared_core.manager.local import POOR
from shared_core.manager.privacy import Redact, redacted
from shared_core.prompt import render
from shared_core.router.load import CallsInFlight
from shared_core.settings import Settings, read_settings
from shared_core.store.protocol import Store
from shared_core.telemetry import Counters
from shared_core.values import (
    Arm,
    Clock,
    Decision,
    ExactAnswer,
    Feedback,
    Hit,
    Outcome,
    Request,
    Route,
    Selection,
    Source,
)

log = logging.getLogger("iccache")

Reward: TypeAlias = Callable[[Request, str], float | None]
UNROUTED: Final = local.UNROUTED
TO_BE_MENDED: Final = (StoreIsUnusable, EmbedderDiffers, ExtraIsMissing, SettingIsWrong)  # none passes by itself


@dataclass(frozen=True, slots=True)
class MaintainReport:
    """What one round of `maintain` did."""

    learned: LearnReport
    changed: int
    evicted: int


class Engine:
    """Selection, routing and example management over one store.

    Args:
        store: A URL (``sqlite:///iccache.db``, ``redis://…``, ``memory://``) or an open store, which then stays open.
        arms: The candidate models; empty if only the exact tier and the pool are used.
        reference: The arm whose quality is the yardstick and which answers whenever IC-Cache cannot decide.
        embedder: Turns queries into vectors; None leaves the exact tier alone.
        settings: Every other knob.
        reward: Scores (request, answer) in [0, 1], or None for no opinion; runs off the request path, on one thread.
            `request.query` is the text that was asked. Where it fails, the answer is kept without a score.
        redact: Applied to texts before they are embedded or stored.
        background: False starts no loops; `maintain` then does their work.
        clock: Seconds since the epoch.

    Raises:
        SettingIsWrong: The arguments contradict each other.
        StoreIsUnusable: The store cannot be opened.
        EmbedderDiffers: The pool was written with another embedder.
    """

    def __init__(
        self,
        *,
        store: Store | str,
        arms: Sequence[Arm] = (),
        reference: str | None = None,
        embedder: Embedder | None = None,
        settings: Settings | None = None,
        reward: Reward | None = None,
        redact: Redact | None = None,
        background: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self.settings = settings or read_settings()
        self.counters = Counters()
        self.in_flight = CallsInFlight()
        self._arms = {arm.name: arm for arm in arms}
        self._reference = reference or ""
        _check_functions(reward, redact)
        self._reward = reward
        self._redact = redact
        self._clock = clock
        self._lock = threading.Lock()
        self._plan = local.plan(
            store,
            arms,
            reference,
            embedder,
            self.settings,
            redact,
            rewarded=reward is not None,
            background=background,
            clock=clock,
        )
        self._local = local.Parts(self._plan, self.counters)
        self._pid = os.getpid()
        self._told: set[str] = set()  # errors that a person must mend, and that a warning has named

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The candidate models by name."""
        return MappingProxyType(self._arms)

    # on the request path --------------------------------------------------------------------------------------

    def lookup(self, request: Request) -> Hit | None:
        """The stored answer of an identical request, or None; a failure is a miss, counted."""
        try:
            answer = self._components().guard.run(self._deadline(), self._exact_answer(request))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._count("lookup", error)
            return None
        return self._served(request, answer)

    async def alookup(self, request: Request) -> Hit | None:
        """`lookup` for event loops."""
        try:
            answer = await self._components().guard.arun(self._deadline(), self._exact_answer(request))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._count("lookup", error)
            return None
        return self._served(request, answer)

    def decide(self, request: Request, decision_id: str | None = None) -> Decision:
        """Which arm answers, and with which examples. Needs arms.

        Equal request, state, seed and `decision_id` give the equal decision.
        """
        identity = decision_id or uuid4().hex
        try:
            return self._components().guard.run(self._deadline(), self._decide(request, identity))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fallback(request, identity, Route(self._reference), error)

    async def adecide(self, request: Request, decision_id: str | None = None) -> Decision:
        """`decide` for event loops: the same decision, and no thread waits for it."""
        identity = decision_id or uuid4().hex
        try:
            return await self._components().guard.arun(self._deadline(), self._decide(request, identity))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fallback(request, identity, Route(self._reference), error)

    def select(self, request: Request, decision_id: str | None = None, *, arm: str = UNROUTED) -> Decision:
        """The examples that help, whichever model answers: for surfaces that choose none. Rendered as chat turns.

        `arm` names the answering model in the record, so that what is learned about it stays its own.
        """
        identity = decision_id or uuid4().hex
        try:
            return self._components().guard.run(self._deadline(), self._select(request, identity, Arm(arm, 0.0)))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fallback(request, identity, Route(arm), error)

    async def aselect(self, request: Request, decision_id: str | None = None, *, arm: str = UNROUTED) -> Decision:
        """`select` for event loops."""
        identity = decision_id or uuid4().hex
        try:
            return await self._components().guard.arun(self._deadline(), self._select(request, identity, Arm(arm, 0.0)))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            return self._fallback(request, identity, Route(arm), error)

    def _exact_answer(self, request: Request) -> Steps[ExactAnswer | None]:
        store = self._components().store
        answer: ExactAnswer | None = yield Step("store", partial(store.exact, request.exact_key))
        return answer

    def _decide(self, request: Request, identity: str) -> Steps[Decision]:
        """The way of a request: redaction, selection, routing, rendering."""
        components = self._components()
        if components.router is None:
            raise SettingIsWrong("decide needs arms; this engine was built without")
        request = yield from self._redacted(request)
        selection = yield from self._selection(request, tuple(self._arms.values()))
        route = yield from components.router.route(request, selection, identity)
        insertion = render(request, selection.for_arm(route.arm), self._arms[route.arm].style)
        self.counters.add(f"decided.{route.arm}")
        return Decision(identity, request, route, selection, insertion, created_at=self._clock())

    def _select(self, request: Request, identity: str, arm: Arm) -> Steps[Decision]:
        """The way of a request for which no arm is chosen."""
        request = yield from self._redacted(request)
        selection = yield from self._selection(request, (arm,))
        examples = selection.for_arm(arm.name)
        insertion = render(request, examples, arm.style)
        route = Route(arm.name, reason=f"{len(examples)} examples of {selection.considered} candidates")
        self.counters.add(f"decided.{arm.name}")
        return Decision(identity, request, route, selection, insertion, created_at=self._clock())

    def _redacted(self, request: Request) -> Steps[Request]:
        """The request as it may be embedded and stored."""
        if self._redact is None:
            return request
        query = yield Step("redact", partial(redacted, request.query, self._redact))
        return replace(request, query=query)

    def _selection(self, request: Request, arms: Sequence[Arm]) -> Steps[Selection]:
        selector = self._components().selector
        if selector is None or not request.examples_allowed:
            return Selection()
        return (yield from selector.select(request, arms))

    def _served(self, request: Request, answer: ExactAnswer | None) -> Hit | None:
        if answer is None:
            self.counters.add("lookup.miss")
            return None
        self.counters.add("lookup.hit")
        hit = Hit(uuid4().hex, answer)
        decision = Decision(hit.decision_id, request, Route("exact", reason="exact hit"), created_at=self._clock())
        components = self._components()
        components.writer.submit(components.manager.record_hit, decision, answer.key)
        return hit

    def _fallback(self, request: Request, identity: str, route: Route, error: Exception) -> Decision:
        self._count("fallback", error)
        route = replace(route, reason=f"fallback: {type(error).__name__}: {error}")
        return Decision(identity, request, route, fallback=True, created_at=self._clock())

    # the arm's call -------------------------------------------------------------------------------------------

    def started(self, decision: Decision) -> None:
        """The decision's arm is being asked. Each call of this is followed by one of `ended`."""
        self.in_flight.started(decision.arm)

    def ended(self, decision: Decision, outcome: Outcome) -> None:
        """The decision's arm has answered, failed, or been left by its reader."""
        self.in_flight.ended(decision.arm)
        if outcome.error:
            self.counters.add(f"arm.failed.{outcome.error}")

    # once the answer is there ---------------------------------------------------------------------------------

    def record(self, decision: Decision, outcome: Outcome, *, trusted: bool = False) -> None:
        """Store what an answered request leaves behind, and score it; durable when it returns.

        An answer that the model cut is scored as well, since the user got it; it is never an example. `trusted` says
        that the adapter vouches for the writer of an answer that IC-Cache did not route. An answer that the reward
        function could not score is kept as one without a score.
        """
        parts = self._components()
        score = None if outcome.tool_calls or outcome.broken_off else self._scored(decision.request, outcome.answer)
        if parts.manager.keep(decision, outcome, score, trusted=trusted):
            parts.poke()
        if score is not None:
            self.feedback(decision.id, score, rater="reward")

    def observe(self, request: Request, outcome: Outcome, *, admit: bool, router_decision_id: str = "") -> str:
        """Keep an answer that IC-Cache did not decide on (`BaseCache.update`); returns its decision id.

        The exact answer is stored before this returns. Where that takes longer than the deadline, or the last call to
        the store failed, the writer stores it later. The example, which needs an embedding, is always the writer's.
        Never raises.

        Args:
            request: What was asked.
            outcome: What was answered.
            admit: True if the answer may become an example as far as the adapter knows.
            router_decision_id: The decision that the answer names already: feedback on it reaches the exact answer.
        """
        decision = self._observed(request, outcome)
        try:
            stored = self._components().guard.run(self._deadline(), self._put_exact(decision, outcome))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            if not self._may_store_later(error):
                return decision.id
            stored = False
        return self._submit_observed(decision, outcome, stored, admit, router_decision_id)

    async def aobserve(self, request: Request, outcome: Outcome, *, admit: bool, router_decision_id: str = "") -> str:
        """`observe` for event loops."""
        decision = self._observed(request, outcome)
        try:
            stored = await self._components().guard.arun(self._deadline(), self._put_exact(decision, outcome))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            if not self._may_store_later(error):
                return decision.id
            stored = False
        return self._submit_observed(decision, outcome, stored, admit, router_decision_id)

    def feedback(self, decision_id: str, score: float, rater: str = "user") -> bool:
        """Append a judgement in [0, 1] to the log; False if this rater has judged this decision before.

        A poor score also removes the exact answer that the decision stored or served; a good one admits the answer
        of an arm that is not trusted by itself.

        Raises:
            SettingIsWrong: The score is not within [0, 1].
        """
        _check_score(score)
        parts = self._components()
        is_new = parts.store.append_feedback(Feedback(decision_id, rater, float(score), self._clock()))
        if score < POOR:
            parts.manager.judged_poor(decision_id)
        elif score >= self.settings.trust_feedback and parts.manager.keep_trusted(decision_id):
            parts.poke()
        return is_new

    def submit_record(self, decision: Decision, outcome: Outcome) -> None:
        """`record`, on the writer: never blocks, never raises."""
        self.submit(self.record, decision, outcome)

    def submit_decision(self, decision: Decision) -> None:
        """Store a decision whose answer is not seen, on the writer, so that feedback can reach its examples."""
        self.submit(lambda: self._components().manager.keep_decision(decision))

    def submit_feedback(self, decision_id: str, score: float, rater: str = "user") -> None:
        """`feedback`, on the writer, after the records submitted before: never blocks.

        Raises:
            SettingIsWrong: The score is not within [0, 1].
        """
        _check_score(score)
        self.submit(self.feedback, decision_id, score, rater)

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """Call `function` on the writer, after what was submitted before: never blocks, never raises."""
        try:
            self._components().writer.submit(function, *args)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._count("submit", error)

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
        """Put (query, answer) pairs into the pool, durably, embedded in one batch; returns their ids in order.

        An example of the same query is replaced: what is imported or corrected is meant to be right.

        Raises:
            SettingIsWrong: The engine has no embedder, or a text is empty.
        """
        ids = self._components().manager.add(pairs, scope=scope, task=task, source=source, writer=writer)
        self._components().refresh()
        return ids

    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Remove examples and their exact answers; returns how many existed. Durable when it returns."""
        removed = self._components().store.delete(scope, ids)
        self._components().refresh()
        return removed

    def clear(self, scope: str | None = None) -> int:
        """Remove every example, exact answer and decision of a scope, or of all; returns how many examples."""
        removed = self._components().store.clear(scope)
        self._components().refresh()
        return removed

    def warm(self, scope: str) -> None:
        """Load a scope and the embedder's model now, so that the first request does not fall back."""
        pool = self._components().pool
        if pool and self._plan.embedder:
            self._plan.embedder.embed(["warm"])
            pool.warm(scope)

    def maintain(self) -> MaintainReport:
        """One round in place: learn from the log, publish, evict, follow the feed, adopt, rebuild."""
        parts = self._components()
        learned = parts.learner.run_until_drained()
        evicted = sum(parts.manager.keep_within_limit(scope) for scope in parts.store.scopes())
        changed = parts.refresh()
        if parts.pool:
            parts.pool.maintain()
        return MaintainReport(learned, changed, evicted)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything submitted so far is stored; False if that takes longer than `timeout` seconds."""
        return self._components().writer.flush(timeout)

    def close(self) -> None:
        """Drain the writer, stop every loop, release the store."""
        self._local.close()

    # private --------------------------------------------------------------------------------------------------

    def _components(self) -> local.Parts:
        """This process's parts; built anew in a forked child, where threads and connections are gone."""
        if os.getpid() != self._pid:
            with self._lock:
                if os.getpid() != self._pid:
                    self._local = local.after_fork(self._plan, self.counters)
                    self._pid = os.getpid()
        return self._local

    def _observed(self, request: Request, outcome: Outcome) -> Decision:
        route = Route(outcome.writer or self._reference, reason="observed")
        return Decision(uuid4().hex, request, route, created_at=self._clock())

    def _put_exact(self, decision: Decision, outcome: Outcome) -> Steps[bool]:
        """True once the exact answer is stored; False where the store would only make the caller wait."""
        components = self._components()
        if components.guard.is_failing("store"):
            return False
        yield Step("store", partial(components.manager.observe_exact, decision, outcome))
        return True

    def _may_store_later(self, error: Exception) -> bool:
        """True if whether the answer was stored is not known; a second time does no harm."""
        self._count("observe", error)
        return isinstance(error, DependencyIsSlow | DependencyIsDown)

    def _submit_observed(
        self, decision: Decision, outcome: Outcome, stored: bool, admit: bool, router_decision_id: str
    ) -> str:
        manager = self._components().manager
        if not stored:
            self.submit(manager.observe_exact, decision, outcome)
        if router_decision_id and outcome.payload is not None and decision.request.store:
            self.submit(manager.link_exact, router_decision_id, decision)
        if admit:
            self.submit(lambda: manager.keep(decision, outcome, None, trusted=True))
        return decision.id

    def _scored(self, request: Request, answer: str) -> float | None:
        """What the reward function says, None if it has no opinion, fails, or says what is no score."""
        if self._reward is None:
            return None
        try:
            score = self._reward(request, answer)
            if score is not None:
                _check_score(score)
        except Exception as error:  # noqa: BLE001 - counted; the answer is worth keeping all the same
            self.counters.add("reward.failed")
            log.warning("IC-Cache got no score from the reward function: %s: %s", type(error).__name__, error)
            return None
        return score

    def _deadline(self) -> Deadline:
        return Deadline(self.settings.deadline, time.monotonic)

    def _count(self, where: str, error: Exception) -> None:
        self.counters.add(where)
        name = type(error).__name__
        self.counters.add(f"{where}.{name}")
        is_news = isinstance(error, TO_BE_MENDED) and name not in self._told
        self._told.add(name)
        log.log(logging.WARNING if is_news else logging.DEBUG, "IC-Cache %s: %s: %s", where, name, error)


def _check_score(score: float) -> None:
    if not (isinstance(score, Real) and 0.0 <= score <= 1.0):
        raise SettingIsWrong(f"a score must be a number in [0, 1]; got {score!r}")


def _check_functions(reward: Reward | None, redact: Redact | None) -> None:
    for name, given in (("reward", reward), ("redact", redact)):
        if given is not None and not callable(given):
            raise SettingIsWrong(f"{name} is {given!r}; give a function")
    if inspect.iscoroutinefunction(reward):
        raise SettingIsWrong("reward is a coroutine function; give a plain one, which runs on a thread of its own")
