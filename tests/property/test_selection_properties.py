"""Every selection has the promised properties, for any pool."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard
from shared_core.prompt import example_tokens
from shared_core.selector.combination import ROUNDING, TIE_DECIMALS, by_utility, without_duplicates
from shared_core.selector.local import LocalSelector
from shared_core.selector.utility import utility
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Arm, Message, Request
from tests.unit.selector_world import FixedEmbedder, Kept, ListPool, unit

numbers = st.tuples(*[st.integers(-3, 3)] * 4).filter(any)
fractions = st.floats(0, 1, width=32)
kept = st.builds(
    lambda v, quality, scope, task, length: (unit(*v), quality, scope, task, "x" * length),
    numbers,
    fractions,
    st.sampled_from(["s", "t"]),
    st.sampled_from(["", "other"]),
    st.integers(1, 400),
)
pools = st.lists(kept, max_size=14).map(
    lambda rows: [Kept(f"{i:02}", v, q, scope, task, "q", answer) for i, (v, q, scope, task, answer) in enumerate(rows)]
)


@pytest.fixture(scope="module")
def guard():
    guard = Guard(2, time.monotonic)
    yield guard
    guard.close()


@given(
    rows=pools,
    here=numbers,
    threshold=st.floats(-1, 1, width=32),
    most=st.integers(0, 6),
    budget=st.integers(0, 600),
    alike=st.floats(0.5, 1),
    data=st.data(),
)
def test_a_selection_keeps_its_promises(guard, rows, here, threshold, most, budget, alike, data):
    knobs = Settings(max_examples=most, example_tokens=budget, duplicate_similarity=alike)
    request = Request((Message("user", "x"),), "x", scope="s", task="")

    def select(order):
        pool = ListPool(order, threshold=threshold)
        selector = LocalSelector(FixedEmbedder(unit(*here)), pool, knobs, Counters())
        return guard.run(Deadline(60, time.monotonic), selector.select(request, [Arm("small", 0.1)]))

    chosen = select(rows).for_arm("small")
    known = {row.id: row for row in rows}
    assert len({e.id for e in chosen}) == len(chosen) <= most
    assert sum(map(example_tokens, chosen)) <= budget
    for one in chosen:
        assert (known[one.id].scope, known[one.id].task) == ("s", "")
        assert one.answer == known[one.id].answer
        assert one.similarity >= threshold - 1e-6
        assert 0 <= one.utility <= max(one.similarity, 0) + 1e-6
    rounded = [round(e.utility, TIE_DECIMALS) for e in chosen]
    assert rounded == sorted(rounded, reverse=True)
    for a, first in enumerate(chosen):
        for second in chosen[a + 1 :]:
            assert known[first.id].vector @ known[second.id].vector < alike
    if len(rows) <= knobs.candidates:  # else which of equally similar ones are candidates is the pool's choice
        assert select(data.draw(st.permutations(rows))).for_arm("small") == chosen


@given(fractions, fractions, fractions, fractions)
def test_utility_grows_with_similarity_and_quality_and_stays_in_range(s1, s2, q1, q2):
    low, high = sorted((s1, s2)), sorted((q1, q2))
    grid = utility(np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
    assert 0 <= grid[0] <= grid[1] <= 1


@given(st.lists(numbers, min_size=1, max_size=10), st.floats(0, 1), st.integers(0, 10))
def test_what_is_left_out_is_a_duplicate_of_something_better(rows, limit, most):
    vectors = np.array([unit(*row) for row in rows], dtype=np.float32)
    taken = without_duplicates(vectors, range(len(rows)), limit, most)
    assert len(taken) <= most
    assert list(taken) == sorted(taken)
    for position in range(len(rows)):
        better = [t for t in taken if t < position]
        if position not in taken and len(taken) < most:
            assert max(float(vectors[t] @ vectors[position]) for t in better) >= limit - ROUNDING - 1e-6


hundredths = st.integers(-100, 100)


@given(st.lists(st.tuples(hundredths, hundredths), min_size=1, max_size=16), st.integers(0, 2**32))
def test_what_rounding_alone_tells_apart_is_shown_in_one_order(rows, seed):
    utilities, similarities = np.array(rows, dtype=np.float32).T / 100
    ids = [f"{i:02}" for i in range(len(rows))]
    noise = np.random.default_rng(seed).uniform(-1e-6, 1e-6, (2, len(rows))).astype(np.float32)
    noisy = by_utility(utilities + noise[0], similarities + noise[1], ids)
    assert noisy == by_utility(utilities, similarities, ids)
