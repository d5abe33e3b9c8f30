"""The composition root: which implementation stands behind each protocol of an engine.

A forked child builds its components again, since threads and connections do not survive a fork.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from shared_core.background import Periodic, Writer
from shared_core.errors import CheckpointIsUnreadable, ConfigurationError, StoreIsUnusable
from shared_core.exact import ExactTier
from shared_core.guard import Guard
from shared_core.inference import Embedder
from shared_core.learning.learner import Learner, newest_checkpoint
from shared_core.manager import Manager
from shared_core.manager.examples import Examples, claim_embedder
from shared_core.manager.local import LocalManager
from shared_core.manager.privacy import Redact
from shared_core.pool import Pool
from shared_core.router import Router
from shared_core.router.linear import LinearRouter
from shared_core.selector import Selector
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from shared_core.telemetry import Counters, get_logger
from shared_core.values import EXACT, UNROUTED, Arm, Clock

log = get_logger("assembly")

RESERVED: Final = frozenset({EXACT, UNROUTED})  # what `DecisionRecord.arm` holds where no arm was chosen
SERVED: Final = ("redis://", "rediss://", "unix://")  # stores that run in a process of their own


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is to be made of, checked."""

    store: Store | str
    arms: tuple[Arm, ...]
    reference: str
    embedder: Embedder | None
    settings: Settings
    redact: Redact | None
    rewarded: bool
    background: bool
    clock: Clock


class Components:
    """One process's store, guard, pool, selector, router, manager, learner, and the threads that keep them current."""

    def __init__(self, spec: EngineSpec, counters: Counters) -> None:
        settings = spec.settings
        self._spec = spec
        self._counters = counters
        self._version = 0
        self._unreadable = 0
        self.store = (
            open_store(spec.store, settings=settings, clock=spec.clock) if isinstance(spec.store, str) else spec.store
        )
        self.guard = Guard(settings.workers, time.monotonic)
        self.pool, self.selector = self._near_tier(spec, counters)
        self.router: Router | None = (
            LinearRouter(spec.arms, spec.reference, settings, counters, can_learn=spec.rewarded) if spec.arms else None
        )
        self.exact = ExactTier(self.store, counters, spec.clock, spec.redact)
        self.examples = Examples(self.store, spec.embedder, settings, spec.clock, spec.redact)
        self.manager: Manager = LocalManager(self.store, self.examples, spec.reference, settings, counters)
        self.learner = Learner(self.store, spec.reference, settings, clock=spec.clock, owner=uuid4().hex)
        self.writer = Writer(counters, settings.drain)
        self.refresh()
        self._loops = self._start_loops(counters) if spec.background else ()

    def _near_tier(self, spec: EngineSpec, counters: Counters) -> tuple[Pool | None, Selector | None]:
        """Pool and selector; none without an embedder, so that the exact tier alone needs no FAISS."""
        if spec.embedder is None:
            return None, None
        from shared_core.pool.replica import Replica
        from shared_core.selector.local import LocalSelector

        if self.store.scopes():  # an empty pool is claimed by its first example, once the embedder has proved itself
            claim_embedder(self.store, spec.embedder)
        pool = Replica(self.store, spec.settings, counters)
        return pool, LocalSelector(spec.embedder, pool, spec.settings, counters)

    def _start_loops(self, counters: Counters) -> tuple[Periodic, ...]:
        settings = self._spec.settings
        loops = [Periodic("follow", settings.refresh, self.refresh, counters)]
        if self.router:
            loops.append(Periodic("learn", settings.learn_every, self.learner.run_until_drained, counters))
        if self.pool:
            loops.append(Periodic("rebuild", settings.learn_every, self.pool.maintain, counters))
        return tuple(loops)

    def refresh(self) -> int:
        """Follow the change feed and adopt a newer checkpoint; returns how many examples changed."""
        changed = self.pool.refresh() if self.pool else 0
        self._count_unreadable()
        if self.router and (version := self.store.checkpoint_version()) != self._version:
            self._version = self._adopt(self.router, version)
        return changed

    def _count_unreadable(self) -> None:
        found = self.store.unreadable
        self._counters.count("store.unreadable", found - self._unreadable)
        self._unreadable = found

    def _adopt(self, router: Router, version: int) -> int:
        """Route by the newest checkpoint from now on, and by what is known already if it cannot be read.

        Returns the version that was looked at, so that an unreadable one is counted and told once.
        """
        try:
            checkpoint = newest_checkpoint(self.store)
        except CheckpointIsUnreadable as error:
            self._counters.count("checkpoint.unreadable")
            log.warning("IC-Cache routes by what it learned before: %s", error)
            return version
        router.adopt(checkpoint)
        return checkpoint.version

    def wake(self) -> None:
        """Look at the change feed soon: this process has just changed it."""
        if self._loops:
            self._loops[0].wake()

    def close(self) -> None:
        """Drain the writer, stop the loops, and close the store if the engine opened it."""
        self.writer.close()
        for loop in self._loops:
            loop.close()
        self.guard.close()
        if self.pool:
            self.pool.close()
        if isinstance(self._spec.store, str):
            self.store.close()


def after_fork(spec: EngineSpec, counters: Counters) -> Components:
    """The components of a forked child.

    Raises:
        StoreIsUnusable: The store cannot be opened a second time in a child: SQLite keeps a table of locks in the
            process, which the child inherits, so that it would believe to hold what its parent holds.
    """
    if not (isinstance(spec.store, str) and spec.store.startswith(SERVED)):
        raise StoreIsUnusable(
            "this engine was made before a fork, and only a Redis store can be opened again in the child; make the "
            "engine in the child (gunicorn: without --preload or in post_fork; Celery: in worker_process_init)"
        )
    return Components(spec, counters)


def specify(
    store: Store | str,
    arms: Sequence[Arm],
    reference: str | None,
    embedder: Embedder | None,
    settings: Settings,
    redact: Redact | None,
    *,
    rewarded: bool,
    background: bool,
    clock: Clock,
) -> EngineSpec:
    """Check what was asked for.

    Raises:
        ConfigurationError: Arms without names of their own, or a reference that is none of them.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"arms need names of their own; got {names}")
    for taken in RESERVED & set(names):
        raise ConfigurationError(
            f"no arm may be named {taken!r}: decisions that chose no arm are recorded under that name"
        )
    if arms and reference not in names:
        raise ConfigurationError(f"reference={reference!r} is not one of the arms {names}")
    if any(arm.cost < 0 for arm in arms):
        raise ConfigurationError("costs must not be negative; give 1.0 to the reference and less to cheaper arms")
    return EngineSpec(store, tuple(arms), reference or "", embedder, settings, redact, rewarded, background, clock)
