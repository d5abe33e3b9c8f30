"""Engines that are refused: another embedder than the pool's, and misuse."""

import pytest

from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, EmbedderDiffers
from tests.unit.engine.world import ARMS, FULL, Words


def test_an_embedder_that_never_worked_does_not_own_the_pool(build, tmp_path):
    class Mistyped(Words):
        tag = "no-such-model"

        def embed(self, texts):
            raise OSError("no such model")

    url = f"sqlite:///{tmp_path}/pool.db"
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Mistyped(), settings=FULL, background=False)
    with pytest.raises(OSError, match="no such model"):
        engine.add_examples([("alpha", "1")], scope="default", task="t")
    engine.close()
    build(store=url).add_examples([("alpha", "1")], scope="default", task="t")


@pytest.mark.parametrize("url", ["memory", "memory:", "memory:///pool", "memory://a"])
def test_a_store_in_memory_has_one_url(url):
    with pytest.raises(ConfigurationError, match="use exactly memory://$"):
        Engine(store=url)


def test_another_embedder_than_the_pools_is_refused_and_both_are_named(build, tmp_path):
    class Other(Words):
        tag = "other-model"

    url = f"sqlite:///{tmp_path}/pool.db"
    build(store=url).add_examples([("alpha", "1")], scope="default", task="t")
    with pytest.raises(EmbedderDiffers, match=r"words-256.*other-model"):
        build(store=url, embedder=Other())


def test_misuse_is_refused_at_construction(build):
    with pytest.raises(ConfigurationError, match="reference"):
        build(reference="huge")
    with pytest.raises(ConfigurationError, match="share a name"):
        build(arms=(ARMS[0], ARMS[0]))
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        build().feedback("x", 5)
