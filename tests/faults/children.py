"""What runs in the processes that the fault tests kill, and the values that both sides can work out by themselves."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import numpy as np

import shared_core.store.redis  # the fork server imports it once for every child
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from shared_core.records import DecisionRecord, Entry, ExactAnswer, Example, Texts

SCOPE = "s"
CREATED_AT = time.time()  # only its being recent matters
assert shared_core.store.redis.RedisStore


def example_of(name: str) -> Example:
    """The example `name`, the same in every process."""
    texts = Texts(f"query {name} — 질문", f"answer {name}\n" * 20)
    vector = np.random.default_rng(list(name.encode())).normal(size=64).astype(np.float32)
    entry = Entry(name, SCOPE, "t", "traffic", "large", CREATED_AT, texts.size, exact_key=f"key-{name}")
    return Example(entry, texts, vector / np.linalg.norm(vector))


def payload_of(name: str) -> bytes:
    """The exact answer that goes with it."""
    return f'{{"answer":"{name}"}}'.encode()


def decision_of(name: str) -> DecisionRecord:
    """The decision that goes with it."""
    return DecisionRecord(f"decision-{name}", SCOPE, "t", "large", (0.5, 0.25), (), 1.0, False, 0, CREATED_AT)


def record(store: Store, name: str) -> None:
    """Write decision, example and exact answer, as the engine does after a request."""
    exact = ExactAnswer(f"key-{name}", SCOPE, payload_of(name), "large", f"decision-{name}", CREATED_AT)
    store.record(decision_of(name), example_of(name), exact)


def name_of(round_number: int, number: int) -> str:
    """The name of the writer's `number`-th write, from 0."""
    return f"r{round_number}-{number:05}"


def write_until_killed(url: str, round_number: str, acknowledged: Connection) -> None:
    """Record one thing after another and say each name once the store has returned."""
    store = open_store(url, settings=Settings())
    number = 0
    while True:
        name = name_of(int(round_number), number)
        try:
            record(store, name)
        except OSError:
            return  # the server was killed
        acknowledged.send_bytes(name.encode())
        number += 1


def answer_a_put_with_a_put(url: str, line: Connection) -> None:
    """Wait for an example through the feed, put one in return; wait for its deletion, delete in return."""
    store = open_store(url, settings=Settings())
    at = store.position()
    line.send_bytes(b"ready")
    for kind in ("put", "delete"):
        seen = None
        while seen is None:
            for change in store.changes(at):
                at = change.seq
                if (change.kind, change.id) == (kind, "theirs"):
                    seen = change
        line.send_bytes(kind.encode())
        if kind == "put":
            record(store, "ours")
        else:
            store.delete(SCOPE, ["ours"])
    store.close()


@contextmanager
def running(target: object, *args: str) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A child that runs `target(*args, line)`, and the other end of its line; killed at the end if it still runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(*args, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join()
        ours.close()


def hear(line: Connection, timeout: float = 30.0) -> bytes:
    """The child's next line of output; fails if there is none."""
    assert line.poll(timeout), "the child says nothing"
    return line.recv_bytes()


def heard_until_the_end(line: Connection) -> Iterator[str]:
    """The names that the child printed before it ended."""
    while True:
        try:
            yield line.recv_bytes().decode()
        except EOFError:
            return
