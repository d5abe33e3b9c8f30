"""The examples of a store in this process: loaded once, then kept up to date from the change feed.

Look-ups read memory and never wait for the feed, a load or a rebuild. One load and one follower of the feed run at a
time; a load is published once it has caught up with the follower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from typing_extensions import override

from shared_core.background import yield_to_requests
from shared_core.errors import FeedWasTrimmed, ScopeIsCold
from shared_core.guard import Step, Steps, immediately
from shared_core.pool import STATISTICS_DTYPE, Candidates, Pool
from shared_core.pool.graph import import_faiss
from shared_core.pool.loading import Loader
from shared_core.pool.memory import return_memory
from shared_core.pool.scope import LoadedScope
from shared_core.pool.texts import TextCache
from shared_core.records import Texts, Vector
from shared_core.settings import Settings
from shared_core.store.protocol import Change, ChangeKind, Store
from shared_core.telemetry import Counters, get_logger
from shared_core.values import Clock

log = get_logger("pool")

BATCH: Final = 50  # changes or rows between two releases of the GIL for requests
LOAD_ATTEMPTS: Final = 3  # attempts at a load during which the feed is trimmed
IDLE_SECONDS: Final = 3600.0  # after which a scope may leave memory; its next request is answered without examples
KEPT: Final = 100  # scopes that stay however long they are idle; a small one takes 7 kB


class Replica(Pool):
    """A `Pool` over one store.

    Args:
        store: Holds the examples. Only texts are read on the request path; everything else is read in the background.
        settings: `seed` is used, for graphs and sampled pairs.
        counters: Counts ``pool.unusable`` (records that cannot be searched), ``pool.reloaded`` (the feed was trimmed),
            ``pool.load_failed``, ``pool.rebuilt`` and ``pool.released`` (scopes that left memory).
        clock: A monotonic clock in seconds.

    Raises:
        ExtraIsMissing: FAISS is not installed.
    """

    def __init__(self, store: Store, settings: Settings, counters: Counters, clock: Clock = time.monotonic) -> None:
        import_faiss()
        self._store = store
        self._seed = settings.seed
        self._counters = counters
        self._texts = TextCache()
        self._scopes: dict[str, LoadedScope] = {}
        self._position = 0  # the last change that every published scope has seen
        self._following = threading.Lock()  # held to change published scopes
        self._loading = threading.Lock()
        self._rebuilding = threading.Lock()
        self._loader = Loader(self.warm, counters, clock)
        self._clock = clock
        self._closed = False

    # on the request path --------------------------------------------------------------------------------------

    @override
    def candidates(self, scope: str, task: str, vector: Vector, k: int) -> Steps[Candidates]:
        """Searches in memory, without a step."""
        return immediately(self._nearest(scope, task, vector, k))

    @override
    def similarity_quantile(self, scope: str, task: str, q: float) -> Steps[float]:
        """Without a step."""
        loaded = self._scopes.get(scope)
        partition = loaded.partitions.get(task) if loaded else None
        return immediately(partition.quantile(q) if partition else -1.0)

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Steps[Mapping[str, Texts]]:
        found, mark = self._texts.get(scope, ids)
        missing = [example for example in ids if example not in found]
        if missing:
            read = yield Step("store", partial(self._store.texts, scope, missing))
            self._texts.keep(scope, read, mark)
            found |= read
        return found

    @override
    def size(self, scope: str) -> int:
        loaded = self._scopes.get(scope)
        return len(loaded) if loaded else 0

    # keeping current ------------------------------------------------------------------------------------------

    @override
    def warm(self, scope: str) -> None:
        with self._loading:
            if scope not in self._scopes and not self._closed:
                self._load(scope)

    @override
    def refresh(self) -> int:
        """Reloads every loaded scope if the feed was trimmed."""
        with self._following:
            if not self._scopes:
                return 0
            try:
                return self._follow()
            except FeedWasTrimmed as error:
                log.info("IC-Cache reloads its examples: %s", error)
                self._reload()
                return 0

    @override
    def maintain(self) -> None:
        """Also releases scopes that were not asked for in the last hour, except for the last `KEPT`."""
        self._release()
        with self._rebuilding:
            rebuilt = sum(loaded.rebuild() for loaded in list(self._scopes.values()))
            if rebuilt:
                self._counters.count("pool.rebuilt", rebuilt)
                return_memory()

    @override
    def close(self) -> None:
        self._closed = True
        self._loader.close()
        with self._following:
            self._scopes = {}
            self._texts.clear()

    # private --------------------------------------------------------------------------------------------------

    def _nearest(self, scope: str, task: str, vector: Vector, k: int) -> Candidates:
        loaded = self._scopes.get(scope)
        if loaded is None:
            if self._closed:
                raise ScopeIsCold("the engine is closed, so its examples are gone")
            if not self._loader.want(scope):
                raise ScopeIsCold(f"the examples of scope {scope!r} could not be loaded; another attempt follows soon")
            raise ScopeIsCold(f"the examples of scope {scope!r} are being loaded")
        loaded.used_at = self._clock()
        partition = loaded.partitions.get(task)
        if partition is None:
            none = np.empty(0, np.float32)
            return Candidates((), none, np.empty((0, len(vector)), np.float32), np.empty(0, STATISTICS_DTYPE))
        return partition.nearest(vector, k)

    def _release(self) -> None:
        with self._following:
            since = self._clock() - IDLE_SECONDS
            idle = [scope for scope, loaded in self._scopes.items() if loaded.used_at < since]
            idle.sort(key=lambda scope: self._scopes[scope].used_at)
            idle = idle[: max(0, len(self._scopes) - KEPT)]
            if idle:
                self._scopes = {scope: self._scopes[scope] for scope in self._scopes.keys() - set(idle)}
        if idle:
            self._counters.count("pool.released", len(idle))
            return_memory()

    def _load(self, scope: str) -> None:
        for attempt in range(LOAD_ATTEMPTS):
            start = self._store.position()
            loaded = self._read(scope)
            with self._following:
                try:
                    self._catch_up(scope, loaded, start)
                except FeedWasTrimmed:
                    if attempt == LOAD_ATTEMPTS - 1:
                        raise
                    continue
                loaded.sample()
                if not self._closed:
                    self._scopes[scope] = loaded
                return

    def _read(self, scope: str) -> LoadedScope:
        loaded = LoadedScope(self._seed, self._clock())
        for rows in self._store.scan(scope, BATCH):
            self._count_unusable(loaded.put(rows))
            yield_to_requests()
        return loaded

    def _catch_up(self, scope: str, loaded: LoadedScope, start: int) -> None:
        """Apply to a scope that was read at `start` the changes that the published scopes have seen since."""
        if not self._scopes:
            self._position = start
        while start < self._position:
            changes = [c for c in self._store.changes(start, BATCH) if c.seq <= self._position]
            if not changes:
                return
            self._apply({scope: loaded}, changes)
            start = changes[-1].seq

    def _follow(self) -> int:
        applied = 0
        while changes := self._store.changes(self._position, BATCH):
            self._apply(self._scopes, changes)
            self._position = changes[-1].seq
            applied += len(changes)
            yield_to_requests()
        return applied

    def _reload(self) -> None:
        start = self._store.position()
        fresh = {scope: self._read(scope) for scope in self._scopes}
        for scope, loaded in fresh.items():
            loaded.used_at = self._scopes[scope].used_at
            loaded.sample()
        self._scopes = fresh
        self._position = start
        self._texts.clear()
        self._counters.count("pool.reloaded")

    def _apply(self, scopes: Mapping[str, LoadedScope], changes: Sequence[Change]) -> None:
        """Apply `changes` to these scopes. Applying changes twice or late is harmless.

        Deletions come first, because they need not wait for rows to be read.
        """
        latest: dict[tuple[str, str], ChangeKind] = {}
        for change in changes:
            key = change.scope, change.id
            if change.scope in scopes and not (change.kind == "statistics" and latest.get(key) == "put"):
                latest[key] = change.kind
        work: dict[tuple[str, ChangeKind], list[str]] = {}
        for (scope, example), kind in latest.items():
            work.setdefault((scope, kind), []).append(example)
        for (scope, kind), ids in work.items():
            if kind == "delete":
                scopes[scope].remove(ids)
            if kind != "statistics":
                self._texts.forget(scope, ids)
        for (scope, kind), ids in work.items():
            if kind == "put":
                self._put_rows(scope, scopes[scope], ids)
            elif kind == "statistics":
                self._learn(scope, scopes[scope], ids)
            scopes[scope].sample()

    def _put_rows(self, scope: str, loaded: LoadedScope, ids: Sequence[str]) -> None:
        rows = self._store.rows(scope, ids)
        loaded.remove(set(ids) - {row.entry.id for row in rows})
        self._count_unusable(loaded.put(rows))

    def _learn(self, scope: str, loaded: LoadedScope, ids: Sequence[str]) -> None:
        """Reads only statistics of loaded examples, because vectors are a hundred times as large."""
        learned = self._store.statistics(scope, ids)
        loaded.remove(set(ids) - learned.keys())
        missed = loaded.learn(learned)
        if missed:
            self._put_rows(scope, loaded, missed)

    def _count_unusable(self, skipped: int) -> None:
        if skipped:
            self._counters.count("pool.unusable", skipped)
            log.warning(
                "IC-Cache skipped %d examples whose vectors are not unit vectors of their scope's dimension", skipped
            )
