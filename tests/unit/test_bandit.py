"""The bandit's maths against independent derivations: ridge regression, closed forms, Monte Carlo."""

import math

import numpy as np
import pytest

from shared_core.router.bandit import (
    NOISE,
    Posterior,
    exploration_shares,
    guard,
    observe,
    predict,
    prior,
    solve,
    thompson,
    win_probabilities,
)

D = 4


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def learned(xs, rewards, start):
    posterior = start
    for x, reward in zip(xs, rewards, strict=True):
        posterior = observe(posterior, x, reward)
    return posterior


def test_a_prior_predicts_its_own_mean_and_deviation():
    mean, std = np.array([0.5, 0.0, 0.1, -0.2]), np.array([0.4, 0.2, 0.3, 1.0])
    x = np.array([1.0, 0.5, -0.3, 0.2])
    assert predict(solve(prior(mean, std)), x) == pytest.approx((mean @ x, math.sqrt(((std * x) ** 2).sum())))


def test_the_posterior_is_bayesian_linear_regression(rng):
    """Against the textbook in covariance form (Bishop 2006, 3.50-3.51), which shares no step with the code."""
    mean, std = rng.normal(size=D), rng.uniform(0.1, 2, size=D)
    xs, rewards = rng.normal(size=(30, D)), rng.random(30)
    head = solve(learned(xs, rewards, prior(mean, std)))

    prior_covariance = np.diag(std**2)
    gain = prior_covariance @ xs.T @ np.linalg.inv(xs @ prior_covariance @ xs.T + NOISE * np.eye(30))
    expected = mean + gain @ (rewards - xs @ mean)
    covariance = prior_covariance - gain @ xs @ prior_covariance
    x = rng.normal(size=D)
    assert predict(head, x) == pytest.approx((expected @ x, math.sqrt(x @ covariance @ x)))
    assert head.count == 30


def test_one_feature_is_a_running_mean_with_the_noise_of_a_coin():
    posterior = prior(np.zeros(1), np.full(1, 1e6))
    for reward in [1.0, 0.0, 1.0, 1.0]:
        posterior = observe(posterior, np.ones(1), reward)
    assert predict(solve(posterior), np.ones(1)) == pytest.approx((0.75, 0.5 / 2))


def test_observing_leaves_the_old_posterior_alone(rng):
    before = prior(np.zeros(D), np.ones(D))
    precision, shift = before.precision.copy(), before.shift.copy()
    observe(before, rng.normal(size=D), 1.0)
    assert (before.precision == precision).all()
    assert (before.shift == shift).all()
    assert before.count == 0


def test_a_precision_that_is_not_positive_definite_is_refused():
    with pytest.raises(np.linalg.LinAlgError):
        solve(Posterior(np.diag([1.0, -1.0]), np.zeros(2), 3))


def test_thompson_draws_from_the_posterior(rng):
    means, stds = np.array([0.2, 0.8]), np.array([0.3, 0.05])
    draws = np.array([thompson(means, stds, rng) for _ in range(20_000)])
    assert draws.mean(axis=0) == pytest.approx(means, abs=0.01)
    assert draws.std(axis=0) == pytest.approx(stds, rel=0.05)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03


class TestWinProbabilities:
    def test_one_arm_always_wins(self):
        assert win_probabilities([-3.0], [0.1]) == (1.0,)

    @pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-5])
    def test_the_quadrature_agrees_with_the_closed_form_for_two(self, scale):
        """A third arm that never wins sends two arms through the quadrature, for any ratio of deviations."""
        locations, stds = np.array([0.5, 0.52, -1e3]), np.array([0.3, 0.3 * scale, 0.1])
        assert win_probabilities(locations, stds)[:2] == pytest.approx(
            win_probabilities(locations[:2], stds[:2]), abs=1e-8
        )

    @pytest.mark.parametrize(
        ("locations", "stds"),
        [
            ([0.5, 0.6], [0.1, 0.3]),
            ([0.5, 0.6, 0.4], [0.1, 0.01, 0.5]),
            ([0.9, 0.2, 0.85, 0.85, 0.1], [0.05, 0.5, 0.2, 0.2, 0.01]),
        ],
    )
    def test_against_monte_carlo(self, locations, stds, rng):
        locations, stds = np.array(locations), np.array(stds)
        n = 400_000
        winners = np.argmax(locations + stds * rng.standard_normal((n, len(stds))), axis=1)
        frequency = np.bincount(winners, minlength=len(stds)) / n
        assert win_probabilities(locations, stds) == pytest.approx(frequency, abs=5 * math.sqrt(0.25 / n))

    def test_equal_arms_win_equally_often(self):
        assert win_probabilities(np.full(7, 0.4), np.full(7, 0.2)) == pytest.approx(np.full(7, 1 / 7))

    def test_a_small_probability_keeps_its_relative_accuracy(self):
        z = 7.0
        loser = win_probabilities([0.0, z], [0.6, 0.8])[0]
        assert loser == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, rel=1e-12)
        assert loser > 0


class TestGuard:
    def allowed(self, means, stds, target=0.9, confidence=1.0):
        return list(guard(means, stds, 1, target, confidence))

    def test_an_arm_must_be_surely_enough(self):
        assert self.allowed([0.80, 0.8], [0.05, 0.3]) == [True, True]
        assert self.allowed([0.76, 0.8], [0.05, 0.3]) == [False, True]

    def test_the_reference_is_always_let_in(self):
        assert self.allowed([0.1, -0.5], [0.01, 3.0]) == [True, True]
        assert self.allowed([0.9, 0.1], [0.01, 3.0], target=1.0)[1]

    def test_a_bar_below_zero_lets_nobody_unknown_in(self):
        assert self.allowed([0.3, -0.4], [0.6, 0.1]) == [False, True]

    def test_a_bar_above_one_counts_as_one(self):
        assert self.allowed([0.95, 1.4], [0.01, 0.1], target=0.9) == [True, True]

    def test_a_mean_above_one_does_not_pay_for_uncertainty(self):
        assert self.allowed([1.6, 1.0], [0.5, 0.1], target=0.9) == [False, True]


class TestExplorationShares:
    def shares(self, counts, explorable, explore=0.1):
        return list(exploration_shares(counts, explorable, explore))

    def test_full_until_ten_rewards_then_fading_with_their_number(self):
        got = [self.shares([n, 0], [True, False])[0] for n in (0, 1, 10, 20, 1000)]
        assert got == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.001])

    def test_only_explorable_arms_get_one(self):
        assert self.shares([0, 0], [False, False]) == [0.0, 0.0]
        assert self.shares([0, 0], [True, False])[1] == 0.0

    def test_several_share_it(self):
        assert self.shares([0, 40, 0], [True, True, False]) == pytest.approx([0.05, 0.0125, 0.0])
