"""Eight threads on one store: nothing is lost, nothing happens twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shared_core.store.protocol import Store
from tests.stores.makers import (
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_statistics,
    publish,
)

THREADS = 8
T = TypeVar("T")


def together(work: Callable[[int], T]) -> list[T]:
    """`work(0)` … `work(7)`, all started at the same moment."""
    gate = threading.Barrier(THREADS)

    def start(number: int) -> T:
        gate.wait(10)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def test_no_write_is_lost_and_no_sequence_number_is_given_twice(store: Store) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            name = f"{thread}-{number}"
            store.record(make_decision(f"d{name}"), make_example(f"e{name}"), make_exact(f"k{name}"))
            assert store.texts("s", [f"e{name}"])  # a write is seen by whoever comes after it

    together(write)
    names = [f"{thread}-{number}" for thread in range(THREADS) for number in range(20)]
    assert store.count("s") == len(names)
    assert set(store.decisions([f"d{name}" for name in names])) == {f"d{name}" for name in names}
    assert all(store.exact(f"k{name}") for name in names)
    changes = store.changes(0)
    assert len({change.seq for change in changes}) == len(changes) == len(names)
    assert sorted(change.id for change in changes) == sorted(f"e{name}" for name in names)


def test_the_log_takes_each_judgement_once(store: Store) -> None:
    accepted = together(
        lambda _: sum(store.append_feedback(make_feedback(f"d{number}", "user")) for number in range(15))
    )
    assert sum(accepted) == 15
    assert [offset for offset, _ in store.feedback(0)] == list(range(1, 16))


def test_one_claim_wins(store: Store) -> None:
    assert len(set(together(lambda thread: store.claim("embedder", f"embedder {thread}")))) == 1


def test_one_owner_gets_the_lease(store: Store) -> None:
    leases = together(lambda thread: store.acquire("learn", f"owner {thread}", 60))
    assert sum(lease is not None for lease in leases) == 1


def test_one_publication_wins(store: Store) -> None:
    store.record(example=make_example())
    lease = store.acquire("learn", "me", 60)
    assert lease is not None
    published = together(
        lambda thread: publish(store, make_checkpoint(1, thread), (0, 0), {("s", "e1"): make_statistics(thread)}, lease)
    )
    assert sum(published) == 1
    winner = published.index(True)
    assert store.progress().offset == winner
    assert store.rows("s", ["e1"])[0].entry.statistics == make_statistics(winner)


def test_a_row_is_never_seen_half_replaced(store: Store) -> None:
    """Each version's texts, statistics and task carry its number; readers only ever see whole ones."""
    done = threading.Event()
    store.record(example=make_example("e1", task="0", statistics=make_statistics(0)))

    def work(thread: int) -> None:
        if thread == 0:
            for number in range(1, 60):
                store.record(example=make_example("e1", task=str(number), statistics=make_statistics(number)))
            done.set()
            return
        while not done.is_set():
            (row,) = store.rows("s", ["e1"])
            assert row.entry.statistics == make_statistics(int(row.entry.task))

    together(work)


def test_a_follower_misses_no_change(store: Store) -> None:
    """Changes become visible in the order of their numbers: who follows the feed never skips one."""
    finished, lock, running = threading.Event(), threading.Lock(), set(range(1, THREADS))
    followed: list[int] = []

    def work(thread: int) -> None:
        if thread == 0:
            position, last = 0, False
            while not last:
                last = finished.is_set()
                for change in store.changes(position):
                    position = change.seq
                    followed.append(position)
            return
        for number in range(15):
            store.record(example=make_example(f"{thread}-{number}"))
        with lock:
            running.discard(thread)
            if not running:
                finished.set()

    together(work)
    assert len(followed) == 15 * (THREADS - 1)
    assert followed == sorted(set(followed))
