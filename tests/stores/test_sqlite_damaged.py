"""A SQLite file with damaged pages: what can be read is served, the rest is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared_core.errors import FeedWasTrimmed, StoreIsUnusable
from shared_core.records import Checkpoint
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from shared_core.telemetry import forget_warnings
from tests.fakes import FakeClock
from tests.stores.makers import (
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_waiting,
    publish,
)
from shared_core.store.protocol import Write

PAGE = 4096
NUMBER = 60
IDS = [f"e{number:03}" for number in range(NUMBER)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a store with something in every table, closed, so that nothing is left in its log."""
    path = tmp_path_factory.mktemp("whole") / "pool.db"
    store = SqliteStore(path, settings=Settings(), clock=FakeClock())
    for scope in ("s", "t"):
        store.put([make_example(name, scope, answer="word " * 100) for name in IDS])
    for name in IDS:
        store.record(make_decision(name), None, make_exact(name))
        store.append_feedback(make_feedback(name))
    store.write([Write(waiting=make_waiting(name)) for name in IDS])
    lease = store.acquire("learner", "me", 60)
    assert lease is not None
    assert publish(store, make_checkpoint(1, 5), (0, 0), {}, lease)
    store.release(lease)
    store.claim("embedder", "minilm")
    store.close()
    return path.read_bytes()


def damaged(whole: bytes, path: Path, first: int, number: int = 1, byte: int = 0xAA) -> Path:
    wreck = bytearray(whole)
    wreck[first * PAGE : (first + number) * PAGE] = bytes([byte]) * (number * PAGE)
    path.write_bytes(wreck)
    return path


def opened(path: Path) -> SqliteStore:
    return SqliteStore(path, settings=Settings(), clock=FakeClock())


def read_all(store: SqliteStore) -> tuple[int, ...]:
    """How much of each kind can be read: 120 rows and texts, 60 answers, decisions, entries of the log, waiting ones."""
    rows = [row for scope in store.scopes() for batch in store.scan(scope, 16) for row in batch]
    assert all(row.entry.id in IDS for row in rows)
    assert sum(store.count(scope) for scope in store.scopes()) <= 2 * NUMBER
    texts = sum(len(store.texts(scope, IDS)) for scope in ("s", "t"))
    again = sum(len(store.rows(scope, IDS)) for scope in ("s", "t"))
    statistics = sum(len(store.statistics(scope, IDS)) for scope in ("s", "t"))
    exact = sum(store.exact(name) is not None for name in IDS)
    scanned = sum(map(len, store.scan_decisions("s", 16)))
    feedback = {offset for offset, _ in all_feedback(store)}
    return (
        len(rows),
        texts,
        again,
        statistics,
        exact,
        len(store.decisions(IDS)),
        scanned,
        len(feedback),
        len(store.waiting(IDS)),
    )


def all_feedback(store: SqliteStore) -> Iterator[tuple[int, object]]:
    after = 0
    while entries := store.feedback(after, 7):
        yield from entries
        assert entries[-1][0] > after
        after = entries[-1][0]


FULL = (120, 120, 120, 120, 60, 60, 60, 60, 60)


def follow(store: SqliteStore) -> int:
    """Follow the feed as a replica does; returns how often it had to load its examples again."""
    reloads, position = 0, 0
    for _ in range(50):
        try:
            changes = store.changes(position, 50)
        except FeedWasTrimmed:
            reloads, position = reloads + 1, store.position()
            continue
        if not changes:
            return reloads
        position = changes[-1].seq
    pytest.fail("the feed never ends")


def test_what_the_whole_file_holds(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    path.write_bytes(whole)
    store = opened(path)
    assert read_all(store) == FULL
    assert (follow(store), store.unreadable) == (0, 0)
    store.close()


@pytest.mark.parametrize("byte", [0xAA, 0x00, 0xFF])
def test_any_one_page_costs_little(whole: bytes, tmp_path: Path, byte: int, caplog: pytest.LogCaptureFixture) -> None:
    """Every page in turn, except the first: it says that the file is a database, and where its tables are."""
    shares: dict[int, float] = {}
    said = 0
    for page in range(1, len(whole) // PAGE):
        path = damaged(whole, tmp_path / f"{page}.db", page, byte=byte)
        caplog.clear()
        forget_warnings()
        store = opened(path)
        found = read_all(store)
        assert follow(store) <= 2
        shares[page] = min(have / full for have, full in zip(found, FULL, strict=True))
        assert (found == FULL) or store.unreadable
        warned = [record for record in caplog.records if "iccache doctor" in record.message]
        assert len(warned) <= 1
        said += len(warned)
        assert store.claim("embedder", "another") in ("minilm", "another")
        if lease := store.acquire("learner", "me", 60):
            store.release(lease)
        for write in (lambda: store.put([make_example("e900")]), lambda: store.append_feedback(make_feedback("d900"))):
            try:
                write()
            except sqlite3.DatabaseError as error:
                assert error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT
        store.close()
        path.unlink()
    assert said > 0.3 * len(shares)  # the others hold only a part of a long value
    # a leaf of a small table may hold half of it; the root of a table leads to all the rest
    assert sum(share >= 0.5 for share in shares.values()) >= 0.8 * len(shares)


@pytest.mark.parametrize("byte", [0xAA, 0x00])
@pytest.mark.parametrize("which", [0, 30, -1])
def test_learning_goes_on_after_damage_of_a_learned_part(tmp_path: Path, which: int, byte: int) -> None:
    """Its chunks cannot be deleted any more, so their table is set aside, and the next publication succeeds."""
    store = opened(tmp_path / "whole.db")
    lease = store.acquire("learner", "me", 60)
    assert lease is not None
    part = Checkpoint(1, 5, {"w": np.full(300_000, 0x5C, np.uint8)})
    assert publish(store, part, (0, 0), {}, lease)
    store.close()
    whole = (tmp_path / "whole.db").read_bytes()
    pages = [page for page in range(len(whole) // PAGE) if whole[page * PAGE : (page + 1) * PAGE].count(0x5C) > 4000]
    store = opened(damaged(whole, tmp_path / "pool.db", pages[which], byte=byte))
    assert store.checkpoint("router") is None
    published = []
    for version in (2, 3):
        now = store.progress()
        published.append(publish(store, make_checkpoint(version, 5 + version), (now.version, now.offset), {}, lease))
    assert published[1]
    assert (store.progress().version, store.progress().offset) == (3, 8)
    assert store.checkpoint("router") == make_checkpoint(3, 8)
    store.close()


def test_twelve_kilobytes_in_the_middle(whole: bytes, tmp_path: Path) -> None:
    store = opened(damaged(whole, tmp_path / "pool.db", len(whole) // PAGE // 2, 3))
    found = read_all(store)
    assert found != FULL
    assert sum(found) > 0.8 * sum(FULL)
    assert store.unreadable
    store.close()


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_is_refused_with_the_mend(whole: bytes, tmp_path: Path, cut: float) -> None:
    """SQLite reads none of it."""
    path = tmp_path / "pool.db"
    path.write_bytes(whole[: int(len(whole) * cut) // PAGE * PAGE])
    with pytest.raises(StoreIsUnusable, match="iccache doctor"):
        opened(path)


@pytest.mark.parametrize(("first", "byte"), [(0, 0xAA), (0, 0x00)])
def test_a_file_without_its_first_page_is_refused(whole: bytes, tmp_path: Path, first: int, byte: int) -> None:
    with pytest.raises(StoreIsUnusable):
        opened(damaged(whole, tmp_path / "pool.db", first, byte=byte))
