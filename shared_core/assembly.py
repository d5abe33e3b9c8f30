"""The composition root: chooses the implementation of each protocol of an engine.

A forked child builds its components again, because threads and connections do not survive a fork.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Final
from uuid import uuid4

from shared_core.background import Periodic, wait_for_requests
from shared_core.errors import ConfigurationError, StoreIsUnusable, kind_of
from shared_core.exact import ExactTier
from shared_core.guard.threads import Guard
from shared_core.inference import Embedder
from shared_core.learning.learner import Learner
from shared_core.learning.statistics import ExampleStatistics
from shared_core.manager import Manager
from shared_core.manager.decisions import Decisions
from shared_core.manager.examples import Examples, claim_embedder
from shared_core.manager.local import LocalManager
from shared_core.manager.privacy import Redact, check_redact
from shared_core.pool import Pool
from shared_core.recorder import Recorder
from shared_core.records import Checkpoint
from shared_core.reward import Reward, check_reward
from shared_core.router import PART as ROUTER
from shared_core.router import Router
from shared_core.router.learner import LinearRouterTrainee
from shared_core.router.linear import LinearRouter
from shared_core.selector import Selector
from shared_core.settings import Settings, check_settings
from shared_core.store import open_store
from shared_core.store.address import StoreLike, located
from shared_core.store.protocol import PartProgress, Store
from shared_core.telemetry import Counters, get_logger
from shared_core.trainee import Trainee
from shared_core.values import EXACT, UNROUTED, Arm, Clock

log = get_logger("assembly")

TRIM_EVERY: Final = 60.0  # seconds; counting a million decisions takes SQLite well under a second
RESERVED: Final = frozenset({EXACT, UNROUTED})  # values of `DecisionRecord.arm` without a chosen arm
SERVER_SCHEMES: Final = ("redis://", "rediss://", "unix://")  # stores that run in a server process


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The checked arguments of an engine."""

    store: Store | str
    arms: tuple[Arm, ...]
    reference: str
    embedder: Embedder | None
    settings: Settings
    redact: Redact | None
    reward: Reward | None
    background: bool
    clock: Clock


class Components:
    """One process's store, guard, pool, selector, router, decisions, manager, learner, and the threads that update them."""

    def __init__(self, spec: EngineSpec, counters: Counters) -> None:
        settings = spec.settings
        self._spec = spec
        self._counters = counters
        self._adopted: PartProgress | None = None  # the router's checkpoint that was adopted, or could not be read
        self._unreadable = 0
        self.store = (
            open_store(spec.store, settings=settings, clock=spec.clock) if isinstance(spec.store, str) else spec.store
        )
        self.guard = Guard(settings.workers, time.monotonic)
        self.pool, self.selector = self._near_tier(spec, counters)
        self.router: Router | None = (
            LinearRouter(spec.arms, spec.reference, settings, counters, can_learn=spec.reward is not None)
            if spec.arms
            else None
        )
        self.decisions = Decisions(self.store)
        self.exact = ExactTier(self.store, self.decisions, counters, spec.clock, spec.redact)
        self.examples = Examples(self.store, spec.embedder, settings, spec.clock, spec.redact)
        self.manager: Manager = LocalManager(self.store, self.examples, spec.reference, settings, counters, spec.clock)
        self.learner = Learner(
            self.store, trainees(spec.reference, settings), spec.clock, owner=uuid4().hex, counters=counters
        )
        self.recorder = Recorder(
            self.manager,
            self.exact,
            spec.reward,
            counters,
            settings,
            spec.clock,
            on_change=self.wake,
            before_embedding=partial(wait_for_requests, partial(self.guard.is_busy, "embedder")),
            stores=not self.store.is_read_only,
        )
        self._loops: tuple[Periodic, ...] = ()
        self.refresh()
        self._loops = self._start_loops(counters) if spec.background else ()

    def _near_tier(self, spec: EngineSpec, counters: Counters) -> tuple[Pool | None, Selector | None]:
        """Pool and selector; None without an embedder, so the exact tier alone does not need FAISS."""
        if spec.embedder is None:
            return None, None
        from shared_core.pool.replica import Replica
        from shared_core.selector.local import LocalSelector

        if self.store.scopes():  # an empty pool is claimed later, by its first example
            claim_embedder(self.store, spec.embedder)
        pool = Replica(self.store, spec.settings, counters)
        return pool, LocalSelector(spec.embedder, pool, spec.settings, counters)

    def _start_loops(self, counters: Counters) -> tuple[Periodic, ...]:
        settings = self._spec.settings
        loops = [Periodic("follow", settings.refresh, self.refresh, counters)]
        if self.store.is_read_only:
            log.warning("%s is open for reading only: IC-Cache stores and learns nothing", self.store.label)
        else:
            if self.router:
                loops.append(Periodic("learn", settings.learn_every, self.learner.run_until_drained, counters))
            loops.append(Periodic("trim", TRIM_EVERY, self.store.trim_decisions, counters))
        if self.pool:
            loops.append(Periodic("rebuild", settings.learn_every, self.pool.maintain, counters))
        return tuple(loops)

    def refresh(self) -> int:
        """Follow the change feed and adopt a newer checkpoint; returns the number of changed examples."""
        self.recorder.lanes.report()
        changed = self.pool.refresh() if self.pool else 0
        self._count_unreadable()
        if self.router:
            self._adopt(self.router)
        return changed

    def _count_unreadable(self) -> None:
        found = self.store.unreadable
        self._counters.count("store.unreadable", found - self._unreadable)
        self._unreadable = found

    def _adopt(self, router: Router) -> None:
        """Route by the newest checkpoint; if it is unreadable, which is counted and logged once, by the present one."""
        stored = self.store.progress().parts.get(ROUTER)
        if stored == self._adopted:
            return
        checkpoint = self.store.checkpoint(ROUTER)
        if stored and checkpoint is None:
            self._counters.count("checkpoint.unreadable", part=ROUTER)
            log.warning("what was learned of %r cannot be read; IC-Cache goes on with what it has read before", ROUTER)
        else:
            router.adopt(checkpoint or Checkpoint())
        self._adopted = stored

    def wake(self) -> None:
        """Follow the change feed soon, because this process has just changed it."""
        if self._loops:
            self._loops[0].wake()

    def close(self) -> None:
        """Drain the lanes, stop the loops, and close the store if the engine has opened it.

        Waits `drain` seconds in all for what does not end.
        """
        end = time.monotonic() + self._spec.settings.drain
        for loop in self._loops:
            loop.stop()
        self.recorder.lanes.close()
        for loop in self._loops:
            loop.close(max(0.0, end - time.monotonic()))
        self.guard.close()
        if self.pool:
            self.pool.close()
        if isinstance(self._spec.store, str):
            self.store.close()


def trainees(reference: str, settings: Settings) -> list[Trainee]:
    """What learns from the feedback log."""
    return [LinearRouterTrainee(reference), ExampleStatistics(reference, settings.quality_target)]


def after_fork(spec: EngineSpec, counters: Counters) -> Components:
    """The components of a forked child.

    Raises:
        StoreIsUnusable: The store cannot be opened again in a child. SQLite keeps its table of locks in the process;
            the child inherits it, and would treat its parent's locks as its own.
    """
    if not (isinstance(spec.store, str) and spec.store.startswith(SERVER_SCHEMES)):
        raise StoreIsUnusable(
            "this engine was created before a fork, and only a Redis store can be opened again in the child; create "
            "the engine in the child (gunicorn: in post_fork, or without --preload; Celery: in worker_process_init)"
        )
    return Components(spec, counters)


def engine_spec(
    store: StoreLike,
    arms: Sequence[Arm],
    reference: str | None,
    embedder: Embedder | None,
    settings: Settings,
    redact: Redact | None,
    *,
    reward: Reward | None,
    background: bool,
    clock: Clock,
) -> EngineSpec:
    """Check the arguments of an engine.

    Raises:
        ConfigurationError: An argument is of another kind, two arms share a name, a name is reserved, a cost is negative,
            or the reference is unknown.
    """
    check_settings(settings)
    check_reward(reward)
    check_redact(redact)
    _check_kinds(arms, embedder)
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"two arms share a name: {names}; give each arm its own name")
    for taken in RESERVED & set(names):
        raise ConfigurationError(
            f"{taken!r} cannot be the name of an arm, because it marks decisions without an arm; choose another name"
        )
    if arms and reference not in names:
        raise ConfigurationError(f"reference={reference!r} is not one of the arms {names}")
    if negative := {arm.name: arm.cost for arm in arms if arm.cost < 0}:
        raise ConfigurationError(
            f"costs must not be negative; got {negative}; use 1.0 for the reference, less for others"
        )
    return EngineSpec(
        located(store), tuple(arms), reference or "", embedder, settings, redact, reward, background, clock
    )


def _check_kinds(arms: object, embedder: object) -> None:
    """Refuse arms and an embedder of another kind."""
    if not isinstance(arms, Sequence) or not all(isinstance(arm, Arm) for arm in arms):
        raise ConfigurationError("arms must be a list of Arm, such as [Arm('small', 0.1), Arm('large', 1.0)]")
    for arm in arms:
        if not isinstance(arm.name, str) or not isinstance(arm.cost, Real):
            raise ConfigurationError(
                f"{arm} needs a text as its name and a number as its cost, such as Arm('small', 0.1)"
            )
    if embedder is not None and not (callable(getattr(embedder, "embed", None)) and hasattr(embedder, "tag")):
        raise ConfigurationError(f"embedder is {kind_of(embedder)}; pass as_embedder(…) of it")
