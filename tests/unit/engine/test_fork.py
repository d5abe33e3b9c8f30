"""Engines in a forked child."""

import os

import pytest

from shared_core.values import Outcome
from tests.unit.engine.world import ask


def in_a_child(work):
    """What `work` returns in a forked child, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_works_on_redis_with_its_own_threads_and_connections(build, redis_url):
    engine = build(store=redis_url, background=True)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")

    def child():
        engine.warm("default")
        decision = engine.decide(ask("alpha"), "d")
        engine.submit_record(decision, Outcome("child"))
        return len(decision.given), engine.flush(10), decision.fallback

    assert in_a_child(child) == "(1, True, False)"
    assert engine.decide(ask("alpha"), "e").selection.for_arm("small")  # the parent goes on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_on_sqlite_falls_back_and_says_what_to_do(build, tmp_path):
    engine = build(store=f"sqlite:///{tmp_path}/pool.db", background=True)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")
    said = in_a_child(lambda: engine.decide(ask("alpha"), "d").route)
    assert "arm='large'" in said
    assert "create the engine in the child" in said
    assert engine.decide(ask("alpha"), "e").selection.for_arm("small")
