"""What the tests of the three routing surfaces share: a server on loopback, a store, and a way to build the surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.openai_server import openai_server


def serving(answer: Callable[..., Any]) -> Any:
    """The fixture of a server that answers with `answer`."""

    @pytest.fixture
    def server():
        with openai_server(answer) as server:
            yield server

    return server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@contextmanager
def building(kind: Callable[..., Any], store: Any, arms: Callable[[], dict[str, Any]]) -> Iterator[Callable[..., Any]]:
    """A function that builds a surface of this kind, on the store; closed at the end."""
    made = []

    def make(**wanted):
        arguments = {
            "arms": arms(),
            "reference": "large",
            "costs": {"small": 0.1},
            "store": store,
            "embedder": Words(),
            "reward": lambda request, answer: 1.0,
            "background": False,
            "relevance_quantile": 0.0,
            "explore": 1.0,
            "deadline": 20.0,
        }
        made.append(kind(**(arguments | wanted)))
        return made[-1]

    yield make
    for surface in made:
        surface.close()


def helped_by(examples: list[tuple[str, str]]) -> Any:
    """The fixture of a surface whose pool has examples; with `explore` 1 the small model answers what they concern."""

    @pytest.fixture
    def helped(build):
        surface = build(task="t")
        surface.add_examples(examples)
        return surface

    return helped
