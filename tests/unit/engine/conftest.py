"""Engines over a store in memory, closed after the test."""

import pytest

from shared_core.engine import Engine
from tests.unit.engine.world import ARMS, FULL, Words


@pytest.fixture
def build():
    engines = []

    def make(**wanted):
        arguments = {
            "store": "memory://",
            "arms": ARMS,
            "reference": "large",
            "embedder": Words(),
            "settings": FULL,
            "reward": lambda request, answer: 1.0,
            "background": False,
        }
        engine = Engine(**(arguments | wanted))
        engines.append(engine)
        engine.warm("default")
        return engine

    yield make
    for engine in engines:
        engine.close()
