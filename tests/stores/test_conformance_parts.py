"""Every store keeps the parts of the learner apart: each in its types, written in pieces, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from shared_core.records import Checkpoint, LearnRound, PartRound
from shared_core.store import parts
from shared_core.store.protocol import ROUNDS_KEPT, Lease, PartProgress, Progress, Publication, Store
from tests.stores.backends import Backend
from tests.stores.conftest import OpenStore, durable_stores
from tests.stores.makers import make_checkpoint, make_feedback, publish
from tests.stores.redis_backend import RedisBackend

EVERY_TYPE = ["<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "|i1", "|u1", "|b1"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(parts, "PAUSE", 0.0)


def leased(store: Store) -> Lease:
    lease = store.acquire("learn", "me", 60)
    assert lease is not None
    return lease


def large(version: int = 1, offset: int = 0, floats: int = 5_000) -> Checkpoint:
    arrays = {"w": np.random.default_rng(version).normal(size=floats).astype(np.float32)}
    return Checkpoint(version, offset, arrays, {"version": version})


def same(found: Checkpoint | None, expected: Checkpoint) -> bool:
    return found == expected and all(
        (found.arrays[name].dtype, found.arrays[name].shape, found.arrays[name].tobytes())
        == (array.dtype, array.shape, array.tobytes())
        for name, array in expected.arrays.items()
    )


def test_every_type_comes_back_as_it_was_to_the_last_bit(store: Store) -> None:
    arrays = {kind: np.arange(-3, 4).astype(kind) for kind in EVERY_TYPE}
    arrays |= {
        "edge": np.array([np.nan, -0.0, np.inf, 5e-324, 1 / 3]),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2 / 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3.0).astype(">f4"),
    }
    checkpoint = Checkpoint(1, 12, arrays, {"arms": ["a"], "nested": {"x": 0.1, "none": None, "ko": "한"}})
    assert publish(store, checkpoint, (0, 0), {}, leased(store))
    little = {**arrays, "big endian": arrays["big endian"].astype("<f4")}
    found = store.checkpoint("router")
    assert same(found, replace(checkpoint, arrays=little))
    found.arrays["fortran"][0, 0] = 7.0  # can be written to


def test_parts_are_replaced_one_by_one(store: Store) -> None:
    lease, router, trunk = leased(store), make_checkpoint(1, 5), large(1, 5)
    both = Publication((0, 0), 1, 5, {"router": router, "trunk": trunk})
    assert store.publish(both, lease)
    assert store.publish(Publication((1, 5), 2, 9, {"router": make_checkpoint(2, 9)}), lease)
    assert store.progress() == Progress(2, 9, {"router": PartProgress(2, 9), "trunk": PartProgress(1, 5)})
    assert same(store.checkpoint("trunk"), trunk)
    assert same(store.checkpoint("router"), make_checkpoint(2, 9))
    assert store.checkpoint("threshold") is None
    assert store.unreadable == 0


def test_a_publication_may_change_no_part(store: Store) -> None:
    lease = leased(store)
    assert store.publish(Publication((0, 0), 1, 7), lease)
    assert store.progress() == Progress(1, 7)


def test_what_is_refused_leaves_the_part_as_it_was(store: Store) -> None:
    lease = leased(store)
    assert publish(store, large(1), (0, 0), {}, lease)
    assert not publish(store, large(2), (0, 0), {}, lease)
    assert not publish(store, large(2), (1, 0), {}, replace(lease, token=lease.token + 1))
    assert same(store.checkpoint("router"), large(1))


@pytest.mark.parametrize(
    ("checkpoint", "error"),
    [
        (Checkpoint(1, 0, {"w": np.array([{}])}), TypeError),
        (Checkpoint(1, 0, {"w": np.zeros(3, complex)}), TypeError),
        (Checkpoint(1, 0, {"w": np.array(["text"])}), TypeError),
        (Checkpoint(1, 0, {}, {"x": object()}), TypeError),
        (Checkpoint(1, 0, {}, {"x": float("nan")}), ValueError),
    ],
)
def test_what_cannot_be_stored_is_refused_and_publishes_nothing(
    store: Store, checkpoint: Checkpoint, error: type[Exception]
) -> None:
    with pytest.raises(error):
        publish(store, checkpoint, (0, 0), {}, leased(store))
    assert store.progress() == Progress()


def test_a_part_that_is_too_large_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_PART_BYTES", 10_000)
    with pytest.raises(ValueError, match="the limit is 10000"):
        publish(store, large(), (0, 0), {}, leased(store))


@contextmanager
def replaced_while_read(store: Store, reads: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After some chunks were read, somebody publishes the next version."""
    learning, left = store._learning, [reads]  # type: ignore[attr-defined]
    read = learning._chunk

    def disturbed(key: str, number: int) -> object:
        left[0] -= 1
        if left[0] == 0:
            now = store.progress()
            for version in range(now.version + 1, now.version + 4):  # so often that no chunk of the old one is left
                before = store.progress()
                assert publish(store, large(version), (before.version, before.offset), {}, leased(store))
        return read(key, number)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "_chunk", disturbed)
        yield


@pytest.mark.parametrize("reads", [1, 7, 20])
def test_a_part_that_is_replaced_while_it_is_read_comes_whole(
    store: Store, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(store, large(1), (0, 0), {}, leased(store))
    with replaced_while_read(store, reads, monkeypatch):
        found = store.checkpoint("router")
    assert found is not None
    assert same(found, large(found.version))
    assert store.unreadable == 0


def chunks_held(backend: Backend) -> int:
    if isinstance(backend, RedisBackend):
        return sum(backend.client.hlen(key) for key in backend.client.scan_iter(f"{backend.prefix}part:*"))
    import sqlite3

    connection = sqlite3.connect(backend.path)  # type: ignore[attr-defined]
    [(held,)] = connection.execute("SELECT COUNT(*) FROM chunks").fetchall()
    connection.close()
    return int(held)


@durable_stores
def test_what_was_replaced_or_never_published_does_not_stay(backend: Backend, store: Store) -> None:
    lease = leased(store)
    assert publish(store, large(1), (0, 0), {}, lease)
    held = chunks_held(backend)
    assert held == 21
    assert not publish(store, large(5), (4, 4), {}, lease)
    for version in range(2, 8):
        assert publish(store, large(version), (version - 1, 0), {}, lease)
    for version in range(8, 18):
        assert store.publish(Publication((version - 1, 0), version, 0), lease)
    if isinstance(backend, RedisBackend):
        abandoned = [key for key in backend.client.scan_iter(f"{backend.prefix}part:*") if backend.client.pttl(key) > 0]
        assert len(abandoned) == 1  # it expires
        backend.client.delete(*abandoned)
    assert chunks_held(backend) == held
    assert same(store.checkpoint("router"), large(7))


@durable_stores
def test_a_pool_of_before_keeps_how_far_it_learned_and_drops_the_rest(backend: Backend, store: Store) -> None:
    """As Redis holds it; the file of a SQLite store is migrated when it is opened."""
    if not isinstance(backend, RedisBackend):
        return
    before = {"version": 7, "offset": 12, "head": b'{"v":1}', "arrays": b"\x00" * 64, "call": "x"}
    backend.client.hset(f"{backend.prefix}checkpoint", mapping=before)
    assert store.progress() == Progress(7, 12)
    assert store.checkpoint("router") is None
    assert publish(store, large(8, 12), (7, 12), {}, leased(store))
    assert set(backend.client.hkeys(f"{backend.prefix}checkpoint")) == {b"version", b"offset", b"call", b"part:router"}
    assert same(store.checkpoint("router"), large(8, 12))


@durable_stores
def test_the_last_part_stays_without_expiry(backend: Backend, store: Store) -> None:
    assert publish(store, large(1), (0, 0), {}, leased(store))
    if isinstance(backend, RedisBackend):
        [key] = backend.client.scan_iter(f"{backend.prefix}part:*")
        assert backend.client.ttl(key) == -1
    store.close()


@durable_stores
def test_chunks_that_expired_before_the_publication_publish_nothing(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(backend, RedisBackend):
        return  # SQLite keeps them
    learning = store._learning  # type: ignore[attr-defined]
    write = learning._write_chunk

    def expiring(key: str, number: int, data: bytes) -> None:
        write(key, number, data)
        if number == 10:
            backend.client.delete(f"{backend.prefix}part:{key}")

    monkeypatch.setattr(learning, "_write_chunk", expiring)
    assert not publish(store, large(1), (0, 0), {}, leased(store))
    assert store.progress() == Progress()


@durable_stores
@pytest.mark.parametrize("at", [0, 300, 999])
def test_one_changed_byte_anywhere_is_seen(backend: Backend, store: Store, at: int) -> None:
    assert publish(store, large(1), (0, 0), {}, leased(store))
    data = bytearray(backend.peek("weights", ""))
    data[at] ^= 1
    backend.damage("weights", bytes(data))
    assert store.checkpoint("router") is None
    assert store.unreadable == 1


@durable_stores
def test_a_lost_chunk_is_seen(backend: Backend, store: Store) -> None:
    assert publish(store, large(1), (0, 0), {}, leased(store))
    head = json.loads(backend.peek("checkpoint", ""))
    if isinstance(backend, RedisBackend):
        backend.client.hdel(f"{backend.prefix}part:{head['key']}", 9)
    else:
        import sqlite3

        with sqlite3.connect(backend.path) as connection:  # type: ignore[attr-defined]
            connection.execute("DELETE FROM chunks WHERE number = 9")
        connection.close()
    assert store.checkpoint("router") is None


@durable_stores
def test_what_a_newer_release_wrote_is_named_and_kept(backend: Backend, store: Store) -> None:
    lease = leased(store)
    assert publish(store, large(1), (0, 0), {}, lease)
    later = backend.peek("checkpoint", "").replace(b'"v":1', b'"v":2')
    backend.damage("checkpoint", later)
    held = chunks_held(backend)
    assert store.progress().parts == {"router": PartProgress(is_newer=True)}
    for version in range(2, 6):
        other = {"other": make_checkpoint(version)}
        assert store.publish(Publication((version - 1, 0), version, 0, other), lease)
    assert backend.peek("checkpoint", "") == later
    assert chunks_held(backend) == held + 1


def test_the_reports_of_the_last_rounds_are_kept(store: Store) -> None:
    lease = leased(store)
    for version in range(1, ROUNDS_KEPT + 8):
        part = PartRound("router", version, {"pair": 2}, version - 1, version, 0.25, "ValueError")
        report = LearnRound(version, 7.5, version, 1, 2, (part,))
        assert store.publish(Publication((version - 1, 0), version, 0, report=report), lease)
    kept = store.rounds()
    assert [report.version for report in kept] == list(range(ROUNDS_KEPT + 7, 7, -1))
    assert kept[-1] == LearnRound(8, 7.5, 8, 1, 2, (PartRound("router", 8, {"pair": 2}, 7, 8, 0.25, "ValueError"),))


# pairs ------------------------------------------------------------------------------------------------------------------


def test_pairs_are_kept_as_pairs_once_a_rater(open_backend: OpenStore) -> None:
    store = open_backend()
    pair = replace(make_feedback("d1", score=1.0), than="d2", arm="small", than_arm="large")
    turned = replace(pair, decision_id="d2", than="d1", arm="large", than_arm="small")
    other_arms = replace(pair, decision_id="d3", than="d3")
    assert store.append_feedback(pair)
    assert not store.append_feedback(turned)
    assert store.append_feedback(replace(turned, rater="judge"))
    assert store.append_feedback(other_arms)
    assert store.append_feedback(make_feedback("d1"))  # a rating is another thing
    assert [feedback for _, feedback in store.feedback(0)] == [
        pair,
        replace(turned, rater="judge"),
        other_arms,
        make_feedback("d1"),
    ]
    assert [[rating.feedback for rating in found] for found in store.ratings(["d1", "d2", "d3"]).values()] == [
        [make_feedback("d1")]
    ]
