"""What must hold of the bandit for every history, not only for the ones we thought of."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared_core.router.bandit import (
    exploration_shares,
    guard,
    observe,
    predict,
    prior,
    solve,
    thompson,
    win_probabilities,
)

D = 5
coordinate = st.floats(-1.5, 1.5, width=32)
context = arrays(np.float64, D, elements=coordinate)
unit = st.floats(0, 1)
history = st.lists(st.tuples(context, unit), min_size=1, max_size=40)
arm_count = st.integers(1, 6)
deviation = st.floats(1e-4, 3)


def start():
    return prior(np.full(D, 0.3), np.full(D, 0.5))


def fold(posterior, pairs):
    for x, reward in pairs:
        posterior = observe(posterior, x, reward)
    return posterior


@st.composite
def arms(draw):
    n = draw(arm_count)
    means = draw(arrays(np.float64, n, elements=st.floats(-2, 2)))
    stds = draw(arrays(np.float64, n, elements=deviation))
    return means, stds


@settings(deadline=None)
@given(history, st.data())
def test_any_batching_of_the_log_gives_the_same_bits(pairs, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=5)))
    batched = start()
    for a, b in zip([0, *cuts], [*cuts, len(pairs)], strict=True):
        batched = fold(batched, pairs[a:b])
    once = fold(start(), pairs)
    assert batched.precision.tobytes() == once.precision.tobytes()
    assert batched.shift.tobytes() == once.shift.tobytes()
    assert batched.count == once.count


@settings(deadline=None)
@given(history, st.randoms(use_true_random=False))
def test_the_order_of_the_log_does_not_matter_but_for_rounding(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    a, b = fold(start(), pairs), fold(start(), shuffled)
    assert np.allclose(a.precision, b.precision, rtol=1e-12, atol=1e-12)
    assert np.allclose(a.shift, b.shift, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(history)
def test_the_precision_stays_symmetric_and_positive_definite(pairs):
    precision = fold(start(), pairs).precision
    assert (precision == precision.T).all()
    assert np.linalg.eigvalsh(precision).min() > 0


@settings(deadline=None)
@given(history, context, unit, context)
def test_more_data_never_makes_us_less_sure_anywhere(pairs, x, reward, elsewhere):
    before = fold(start(), pairs)
    after = observe(before, x, reward)
    assert predict(solve(after), elsewhere)[1] <= predict(solve(before), elsewhere)[1] * (1 + 1e-9)


@settings(deadline=None)
@given(history, context.filter(lambda x: float(x @ x) > 0.1))
def test_a_good_reward_raises_and_a_bad_one_lowers_the_expectation_there(pairs, x):
    posterior = fold(start(), pairs)
    now = predict(solve(posterior), x)[0]
    assert predict(solve(observe(posterior, x, max(1.0, now))), x)[0] >= now - 1e-9
    assert predict(solve(observe(posterior, x, min(0.0, now))), x)[0] <= now + 1e-9


@settings(deadline=None)
@given(arms())
def test_win_probabilities_are_a_distribution(drawn):
    wins = win_probabilities(*drawn)
    assert min(wins) >= 0
    assert math.isclose(sum(wins), 1, rel_tol=1e-9)


@settings(deadline=None)
@given(arms(), st.floats(-3, 3), st.randoms(use_true_random=False))
def test_win_probabilities_depend_neither_on_order_nor_on_a_common_shift(drawn, shift, random):
    means, stds = drawn
    order = random.sample(range(len(means)), len(means))
    assert np.allclose(
        win_probabilities(means[order] + shift, stds[order]), np.array(win_probabilities(means, stds))[order], atol=1e-7
    )


@settings(max_examples=15, deadline=None)
@given(arms(), st.integers(0, 2**32))
def test_arms_win_as_often_as_their_probability_says(drawn, seed):
    means, stds = drawn
    n = 20_000
    rng = np.random.default_rng(seed)
    winners = np.argmax([thompson(means, stds, rng) for _ in range(n)], axis=1)
    frequency = np.bincount(winners, minlength=len(means)) / n
    assert np.abs(frequency - win_probabilities(means, stds)).max() < 6 * math.sqrt(0.25 / n)


@settings(deadline=None)
@given(arms(), unit, unit, st.floats(0, 3), st.floats(0, 3))
def test_a_stricter_guard_lets_in_no_more(drawn, target, other_target, confidence, other_confidence):
    means, stds = drawn
    loose = guard(means, stds, 0, min(target, other_target), min(confidence, other_confidence))
    strict = guard(means, stds, 0, max(target, other_target), max(confidence, other_confidence))
    assert all(was or not now for was, now in zip(loose, strict, strict=True))
    assert strict[0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=8), unit)
def test_exploration_never_exceeds_its_share_and_only_fades(rows, explore):
    counts, explorable = zip(*rows, strict=True)
    shares = exploration_shares(counts, explorable, explore)
    assert 0 <= sum(shares) <= explore * (1 + 1e-12)
    assert all(share == 0 for share, may in zip(shares, explorable, strict=True) if not may)
    later = exploration_shares([count + 1 for count in counts], explorable, explore)
    assert all(b <= a for a, b in zip(shares, later, strict=True))
