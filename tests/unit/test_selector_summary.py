"""The sentence on a choice of examples names the bound that left all of them out."""

from shared_core.engine import Engine
from shared_core.settings import Settings
from tests.unit.engine.world import Words, ask

EASY = {"relevance_quantile": 0.0}


def reason(query="heat the bathroom", **settings):
    engine = Engine(store="memory://", embedder=Words(), settings=Settings(**settings), background=False)
    try:
        engine.warm("default")
        pairs = [("heat the kitchen now", "climate kitchen"), ("open a window", "window"), ("close a door", "door")]
        engine.add_examples(pairs, scope="default", task="t")
        return engine.select(ask(query), "d").route.reason
    finally:
        engine.close()


def test_with_examples_the_numbers_say_enough():
    assert reason(**EASY, max_examples=2) == "2 examples of 3 candidates"


def test_similarity_left_them_out():
    said = reason("xyz", relevance_quantile=1.0)
    assert said.startswith(
        "0 examples of 3 candidates: none reaches the similarity that relevance_quantile asks for, 0."
    )


def test_the_budget_left_them_out():
    said = reason(**EASY, example_tokens=1)
    assert said.startswith("0 examples of 3 candidates: 3 are similar enough, but each is rated poorly or longer than")


def test_without_candidates_there_is_no_bound_to_name():
    assert reason(max_examples=0) == "0 examples of 0 candidates"
