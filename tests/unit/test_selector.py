"""Which examples are chosen for a request, in which order, and when none are."""

import threading
import time

import numpy as np
import pytest

from shared_core.errors import DependencyIsSlow, ScopeIsCold
from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard
from shared_core.selector.combination import without_duplicates
from shared_core.selector.local import LocalSelector
from shared_core.selector.utility import quality_weight, utility
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Arm, Message, Request
from tests.unit.selector_world import FixedEmbedder, Kept, ListPool, unit

HERE = unit(1, 0, 0, 0, 0)
SMALL = Arm("small", 0.1)


def at(cosine, axis):
    """A unit vector at this cosine from HERE; vectors of different axes are no duplicates of one another."""
    vector = np.zeros(5, dtype=np.float32)
    vector[0], vector[axis] = cosine, (1 - cosine**2) ** 0.5
    return vector


@pytest.fixture
def guard():
    guard = Guard(2, time.monotonic)
    yield guard
    guard.close()


@pytest.fixture
def choose(guard):
    """Select from a pool under these settings."""

    def select(pool, query="what now?", scope="default", task="", embedder=None, counters=None, seconds=10.0, **knobs):
        selector = LocalSelector(embedder or FixedEmbedder(HERE), pool, Settings(**knobs), counters or Counters())
        request = Request((Message("user", query),), query, scope=scope, task=task)
        return guard.run(Deadline(seconds, time.monotonic), selector.select(request, [SMALL]))

    return select


def ids(selection):
    return [e.id for e in selection.for_arm("small")]


def test_the_most_similar_comes_first_with_its_texts_and_scores(choose):
    pool = ListPool([Kept("far", at(0.6, 1)), Kept("near", at(0.9, 2), query="q", answer="a")], threshold=0.5)
    selection = choose(pool)
    assert ids(selection) == ["near", "far"]
    best = selection.for_arm("small")[0]
    assert (best.query, best.answer) == ("q", "a")
    assert best.similarity == pytest.approx(0.9)
    assert best.utility == pytest.approx(0.9)
    assert selection.considered == 2
    assert selection.threshold == 0.5
    np.testing.assert_array_equal(selection.vector, HERE)


def test_an_answer_rated_poorly_stands_behind_one_that_is_unrated(choose):
    pool = ListPool([Kept("poor", at(0.9, 1), quality=0.2), Kept("unrated", at(0.7, 2))])
    assert ids(choose(pool)) == ["unrated", "poor"]


def test_a_well_rated_answer_does_not_outrank_a_nearer_unrated_one(choose):
    pool = ListPool([Kept("rated", at(0.6, 1), quality=1.0), Kept("unrated", at(0.7, 2))])
    assert ids(choose(pool)) == ["unrated", "rated"]


def test_an_answer_rated_worthless_is_never_shown(choose):
    pool = ListPool([Kept("worthless", at(0.99, 1), quality=0.0), Kept("fair", at(0.5, 2))])
    assert ids(choose(pool)) == ["fair"]


def test_candidates_below_the_pools_quantile_are_dropped_and_one_exactly_on_it_stays(choose):
    pool = ListPool([Kept("above", at(0.9, 1)), Kept("on", at(0.75, 2)), Kept("below", at(0.7, 3))], threshold=0.75)
    assert ids(choose(pool, relevance_quantile=0.8)) == ["above", "on"]
    assert pool.asked_quantiles == [0.8]


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_the_ends_of_the_quantile_reach_the_pool_as_they_are(choose, quantile):
    pool = ListPool([Kept("a", at(0.9, 1))])
    choose(pool, relevance_quantile=quantile)
    assert pool.asked_quantiles == [quantile]


def test_with_no_threshold_even_the_opposite_is_chosen(choose):
    assert ids(choose(ListPool([Kept("opposite", at(-0.9, 1))]), relevance_quantile=0)) == ["opposite"]


def test_of_near_duplicates_the_more_useful_one_stays(choose):
    twin = at(0.9, 1)
    pool = ListPool([Kept("worse", twin, quality=0.3), Kept("better", twin), Kept("other", at(0.8, 2))])
    assert ids(choose(pool)) == ["better", "other"]
    assert ids(choose(pool, duplicate_similarity=1.0)) == ["better", "other"]


def test_ties_are_broken_by_id(choose):
    kept = [Kept(name, at(0.8, axis)) for name, axis in (("c", 1), ("a", 2), ("b", 3))]
    assert ids(choose(ListPool(kept))) == ["a", "b", "c"]
    assert ids(choose(ListPool(kept[::-1]))) == ["a", "b", "c"]


def test_at_most_max_examples_are_chosen_and_read_in_one_call(choose):
    pool = ListPool([Kept(str(axis), at(1 - axis / 10, axis)) for axis in (1, 2, 3, 4)])
    assert ids(choose(pool, max_examples=2)) == ["1", "2"]
    assert pool.text_calls == [["1", "2"]]


def test_no_examples_wanted_still_gives_the_vector_and_searches_nothing(choose):
    selection = choose(ListPool([Kept("a", at(0.9, 1))], cold=True), max_examples=0)
    assert selection.for_arm("small") == ()
    np.testing.assert_array_equal(selection.vector, HERE)


def test_one_too_long_for_the_budget_is_passed_over(choose):
    pool = ListPool([Kept("long", at(0.9, 1), answer="x" * 5000), Kept("short", at(0.8, 2))])
    assert ids(choose(pool)) == ["short"]
    assert ids(choose(pool, example_tokens=0)) == []


def test_an_example_deleted_between_search_and_reading_is_left_out(choose):
    pool = ListPool([Kept("gone", at(0.9, 1)), Kept("here", at(0.8, 2))], deleted={"gone"})
    assert ids(choose(pool)) == ["here"]


def test_an_empty_pool_gives_an_empty_selection_with_the_vector(choose):
    selection = choose(ListPool([]))
    assert (selection.for_arm("small"), selection.considered) == ((), 0)
    assert selection.vector is not None


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_an_empty_query_is_counted_and_not_embedded(choose, query):
    counters, embedder = Counters(), FixedEmbedder(HERE)
    selection = choose(ListPool([Kept("a", at(0.9, 1))]), query=query, counters=counters, embedder=embedder)
    assert selection.for_arm("small") == ()
    assert selection.vector is None
    assert embedder.seen == []
    assert counters["bypass.empty_query"] == 1


def test_the_query_is_embedded_once(choose):
    embedder = FixedEmbedder(HERE)
    choose(ListPool([Kept("a", at(0.9, 1))]), query="heat it", embedder=embedder)
    assert embedder.seen == [["heat it"]]


def test_scope_and_task_of_the_request_are_searched(choose):
    pool = ListPool(
        [
            Kept("mine", at(0.9, 1), scope="me", task="t"),
            Kept("yours", at(0.95, 2), scope="you", task="t"),
            Kept("another task", at(0.95, 3), scope="me", task="u"),
        ]
    )
    assert ids(choose(pool, scope="me", task="t")) == ["mine"]


def test_a_cold_scope_is_the_callers_to_handle(choose):
    with pytest.raises(ScopeIsCold):
        choose(ListPool([], cold=True))


def test_an_embedder_that_hangs_is_given_up_at_the_deadline(choose):
    release = threading.Event()

    class Hanging(FixedEmbedder):
        def embed(self, texts):
            release.wait(20)
            return super().embed(texts)

    try:
        with pytest.raises(DependencyIsSlow, match="embedder"):
            choose(ListPool([]), embedder=Hanging(HERE), seconds=0.05)
    finally:
        release.set()


def test_quality_takes_away_only_below_the_unrated():
    weights = quality_weight(np.array([0, 0.25, 0.5, 0.75, 1], dtype=np.float32))
    np.testing.assert_allclose(weights, [0, 0.5, 1, 1, 1])


def test_utility_of_the_dissimilar_is_zero():
    got = utility(np.array([-0.5, 0.8], dtype=np.float32), np.array([1.0, 0.25], dtype=np.float32))
    np.testing.assert_allclose(got, [0, 0.4])


def test_a_duplicate_of_a_duplicate_that_was_dropped_may_stay():
    chain = np.array([unit(1, 0), unit(1, 0.5), unit(1, 1.2)], dtype=np.float32)  # each near its neighbour only
    assert without_duplicates(chain, [0, 1, 2], 0.88, 3) == (0, 2)


class ByArm:
    """A utility that likes what is nearest for one arm, and what is farthest for any other."""

    def __init__(self, *, needs_texts=False):
        self.needs_texts, self.texts = needs_texts, None

    def score(self, request, found, texts, arms):
        self.texts = dict(texts)
        return np.array([found.similarity if arm.name == "near" else 1 - found.similarity for arm in arms])


def select(guard, pool, utility, arms):
    selector = LocalSelector(FixedEmbedder(HERE), pool, Settings(max_examples=1), Counters(), utility)
    request = Request((Message("user", "what now?"),), "what now?")
    return guard.run(Deadline(10.0, time.monotonic), selector.select(request, arms))


def test_each_arm_has_the_examples_that_are_useful_to_it_read_in_one_call(guard):
    pool = ListPool([Kept("close", at(0.9, 1)), Kept("between", at(0.8, 2)), Kept("distant", at(0.7, 3))])
    arms = [Arm("near", 0.1), Arm("far", 0.2), Arm("large", 1.0, uses_examples=False)]
    selection = select(guard, pool, ByArm(), arms)
    chosen = {arm.name: [e.id for e in selection.for_arm(arm.name)] for arm in arms}
    assert chosen == {"near": ["close"], "far": ["distant"], "large": []}
    assert pool.text_calls == [["close", "distant"]]


def test_a_utility_that_reads_texts_has_those_of_all_candidates_before_the_choice(guard):
    pool = ListPool([Kept("close", at(0.9, 1), query="q1"), Kept("distant", at(0.7, 3), query="q2")])
    reading = ByArm(needs_texts=True)
    selection = select(guard, pool, reading, [Arm("near", 0.1)])
    assert {example: texts.query for example, texts in reading.texts.items()} == {"close": "q1", "distant": "q2"}
    assert [e.query for e in selection.for_arm("near")] == ["q1"]
    assert pool.text_calls == [["close", "distant"]]  # not once more for those that were chosen
