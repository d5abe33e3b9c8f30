"""The router as the engine uses it: eligible arms, exploration, propensities, determinism, what it says."""

import json
import logging
import math
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared_core.errors import ConfigurationError
from shared_core.router import state
from shared_core.router.bandit import observe
from shared_core.router.features import DIMENSION, contexts
from shared_core.router.linear import LinearRouter, _generator
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.records import Checkpoint
from shared_core.text import digest
from shared_core.values import Arm, Message, Request, ScoredExample, Selection
from tests.steps import result

SMALL, LARGE = Arm("small", 0.1), Arm("large", 1.0, uses_examples=False)
REQUEST = Request((Message("system", "Be brief."), Message("user", "heat the kitchen to 30")), "heat the kitchen to 30")


def context(request, chosen, arm):
    (x,) = contexts(request, chosen, [arm])
    return x


def unit(seed, dimension=384):
    vector = np.random.default_rng(seed).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def selection(n=3, similarity=0.8, utility=0.6, seed=0):
    examples = tuple(ScoredExample(f"e{i}", similarity - 0.01 * i, utility, "q", "a") for i in range(n))
    return Selection({"small": examples, "medium": examples}, 16, 0.3, unit(seed))


def checkpoint(rewards, arms=(SMALL, LARGE), version=1, chosen=None):
    """What a learner would publish after these rewards, one list an arm, all in the same context."""
    posteriors = {}
    for arm in arms:
        posterior = state.initial(reference=arm.name == "large")
        for reward in rewards.get(arm.name, ()):
            posterior = observe(posterior, context(REQUEST, chosen or selection(), arm), reward)
        if rewards.get(arm.name):
            posteriors[arm.name] = posterior
    arrays, meta = state.write(posteriors)
    return Checkpoint(version, 1, arrays, meta)


def router(rewards=None, arms=(SMALL, LARGE), counters=None, can_learn=True, **settings):
    made = LinearRouter(arms, "large", Settings(**settings), counters or Counters(), can_learn=can_learn)
    if rewards is not None:
        made.adopt(checkpoint(rewards, arms))
    return made


GOOD = {"small": [1.0] * 200, "large": [1.0] * 200}
BAD = {"small": [0.2] * 200, "large": [1.0] * 200}


def routes(made, n, chosen=None, tag=""):
    return [result(made.route(REQUEST, chosen or selection(), f"{tag}{i}")) for i in range(n)]


class TestWhoAnswers:
    def test_a_cheap_arm_that_is_known_to_be_as_good_takes_over(self):
        chosen = Counter(r.arm for r in routes(router(GOOD), 200))
        assert chosen["small"] > 180

    def test_an_arm_that_is_known_to_be_worse_gets_its_fading_exploration_only(self):
        got = routes(router(BAD, explore=1.0), 400)
        assert all(r.explored for r in got if r.arm == "small")
        assert 5 <= sum(r.explored for r in got) <= 40  # 10 / 200 of 400 is 20

    def test_cost_decides_between_equals(self):
        dear = (Arm("small", 3.0), LARGE)
        assert Counter(r.arm for r in routes(router(GOOD, dear, explore=0.0), 100))["large"] > 90

    def test_quality_target_is_what_admits_the_middling(self):
        rewards = {"small": [0.8] * 300, "large": [1.0] * 300}
        strict = routes(router(rewards, explore=0.0, quality_target=0.95), 50)
        loose = routes(router(rewards, explore=0.0, quality_target=0.6, cost_weight=1.0), 50)
        assert {r.arm for r in strict} == {"large"}
        assert Counter(r.arm for r in loose)["small"] > 45

    def test_confidence_keeps_the_little_known_out(self):
        rewards = {"small": [1.0] * 3, "large": [1.0] * 300}
        assert {r.arm for r in routes(router(rewards, explore=0.0, confidence=3.0), 50)} == {"large"}
        assert "small" in {r.arm for r in routes(router(rewards, explore=0.0, confidence=0.0, quality_target=0.5), 50)}

    def test_scores_are_sample_less_weighted_cost(self):
        for score in result(router(GOOD, cost_weight=0.3).route(REQUEST, selection(), "d")).scores:
            assert score.score == pytest.approx(score.sample - 0.3 * score.cost)

    def test_an_arm_learns_to_tell_good_examples_from_poor_ones(self):
        """Rewarded only where its examples are similar, the small arm is used there and not elsewhere."""
        near, far = selection(similarity=0.95, utility=0.9), selection(1, similarity=0.2, utility=0.1)
        posteriors = {"small": state.initial(reference=False), "large": state.initial(reference=True)}
        for _ in range(300):
            for chosen, reward in ((near, 1.0), (far, 0.0)):
                posteriors["small"] = observe(posteriors["small"], context(REQUEST, chosen, SMALL), reward)
                posteriors["large"] = observe(posteriors["large"], context(REQUEST, chosen, LARGE), 1.0)
        made = router(explore=0.0)
        arrays, meta = state.write(posteriors)
        made.adopt(Checkpoint(1, 1, arrays, meta))
        assert Counter(r.arm for r in routes(made, 50, near))["small"] > 45
        assert {r.arm for r in routes(made, 50, far)} == {"large"}


class TestBeforeAnythingIsRated:
    def test_only_exploration_leaves_the_reference(self):
        got = routes(router(explore=0.3, quality_target=0.0, confidence=0.0), 400)
        assert {r.arm for r in got if not r.explored} == {"large"}
        assert 80 <= sum(r.explored for r in got) <= 160

    def test_an_engine_that_cannot_learn_stays_on_the_reference_and_says_so_once(self, caplog):
        with caplog.at_level(logging.WARNING):
            got = routes(router(explore=1.0, can_learn=False), 30)
        assert {r.arm for r in got} == {"large"}
        assert {r.propensity for r in got} == {1.0}
        assert len(caplog.records) == 1
        assert "no feedback, reward function or judge" in caplog.text

    def test_an_engine_with_one_arm_has_nothing_to_learn_and_says_nothing(self, caplog):
        alone = LinearRouter([Arm("large", 1.0)], "large", Settings(), Counters(), can_learn=False)
        with caplog.at_level(logging.WARNING):
            assert {r.arm for r in routes(alone, 5)} == {"large"}
        assert not caplog.records

    def test_feedback_that_comes_all_the_same_ends_that(self, caplog):
        got = routes(router({"large": [1.0]}, explore=1.0, can_learn=False), 10)
        assert {r.arm for r in got} == {"small"}
        assert not caplog.records

    def test_the_reason_says_it(self):
        route = result(router(explore=0.0).route(REQUEST, selection(), "d"))
        assert route.reason == "Nothing has been learned from ratings yet, so the reference large answers."
        assert route.version == 0


class TestExploration:
    def test_requests_without_examples_are_not_explored(self):
        assert not any(r.explored for r in routes(router(BAD, explore=1.0), 100, Selection(vector=unit(1))))

    def test_an_arm_that_is_shown_no_examples_is_not_explored(self):
        arms = (Arm("small", 0.1, uses_examples=False), LARGE)
        assert {r.arm for r in routes(router({"large": [1.0]}, arms, explore=1.0), 50)} == {"large"}

    def test_the_share_fades_after_ten_rewards(self):
        def share(n):
            got = routes(router({"small": [0.0] * n, "large": [1.0] * 50}, explore=0.5), 1000)
            return sum(r.explored for r in got) / 1000

        assert share(10) == pytest.approx(0.5, abs=0.06)
        assert share(40) == pytest.approx(0.125, abs=0.04)

    def test_a_third_arm_added_later_starts_to_receive_traffic(self):
        known = checkpoint(GOOD, version=5)
        made = LinearRouter([SMALL, LARGE, Arm("medium", 0.4)], "large", Settings(explore=0.2), Counters())
        made.adopt(known)
        chosen = Counter(r.arm for r in routes(made, 500))
        assert 25 <= chosen["medium"] <= 80  # half of the share of 0.2
        assert chosen["small"] > chosen["medium"]

    def test_the_reason_names_the_share_and_what_is_known(self):
        route = result(router({"large": [1.0]}, explore=1.0).route(REQUEST, selection(), "d"))
        assert route.explored
        assert "100.0%" in route.reason
        assert "0 rewards" in route.reason


class TestPropensity:
    ARMS = (SMALL, LARGE, Arm("medium", 0.4))
    REWARDS = {"small": [0.9] * 12, "large": [0.9] * 30, "medium": [1.0] * 4}

    def test_it_is_the_frequency_of_the_arm(self):
        n = 2000
        made = router(self.REWARDS, self.ARMS, explore=0.3, confidence=0.2, quality_target=0.7)
        got = routes(made, n)
        counts, logged = Counter(r.arm for r in got), {r.arm: r.propensity for r in got}
        assert set(counts) == {"small", "large", "medium"}
        assert sum(logged.values()) == pytest.approx(1.0)
        for arm, propensity in logged.items():
            assert counts[arm] / n == pytest.approx(propensity, abs=5 * math.sqrt(0.25 / n))

    def test_an_arm_behind_the_guard_has_its_share_alone(self):
        got = routes(router(BAD, explore=1.0), 400)
        assert {round(r.propensity, 9) for r in got if r.arm == "small"} == {0.05}
        assert {round(r.propensity, 9) for r in got if r.arm == "large"} == {0.95}

    def test_the_same_arm_has_the_same_propensity_explored_or_not(self):
        got = [r for r in routes(router(GOOD, explore=1.0), 400) if r.arm == "small"]
        assert {r.explored for r in got} == {True, False}
        assert len({r.propensity for r in got}) == 1


IN_A_CHILD = """
import json, sys
sys.path.insert(0, {root!r})
from tests.unit.test_router import REQUEST, result, router, selection
made = router({{"small": [0.9] * 20, "large": [0.95] * 20}}, explore=0.3, seed=3)
for i in range(50):
    route = result(made.route(REQUEST, selection(), str(i)))
    print(json.dumps([route.arm, route.propensity, route.explored, route.features, [s.sample for s in route.scores]]))
"""


class TestDeterminism:
    def rows(self, order=range(50)):
        made = router({"small": [0.9] * 20, "large": [0.95] * 20}, explore=0.3, seed=3)
        return made, [result(made.route(REQUEST, selection(), str(i))) for i in order]

    def test_another_process_decides_the_same(self, pytestconfig):
        code = IN_A_CHILD.format(root=str(pytestconfig.rootpath))
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        here = [
            [r.arm, r.propensity, r.explored, list(r.features), [s.sample for s in r.scores]] for r in self.rows()[1]
        ]
        assert [json.loads(line) for line in out.stdout.splitlines()] == here
        assert len({row[0] for row in here}) == 2

    def test_the_stream_is_philoxs_own_after_any_draws(self):
        for number in range(50):
            fresh = np.random.Generator(np.random.Philox(key=int(digest([3, str(number)])[:32], 16)))
            used = _generator(3, str(number))
            assert used.random() == fresh.random()
            assert used.standard_normal(number).tolist() == fresh.standard_normal(number).tolist()
            used.integers(0, 9, 3, dtype=np.int32)  # leaves half a word behind

    def test_neither_order_nor_threads_matter(self):
        made, forward = self.rows()
        assert self.rows(range(49, -1, -1))[1][::-1] == forward
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i: result(made.route(REQUEST, selection(), str(i))), range(50))) == forward

    def test_seed_and_decision_id_both_count(self):
        samples = {
            result(router(GOOD, seed=seed).route(REQUEST, selection(), decision)).scores[0].sample
            for seed in (1, 2)
            for decision in ("a", "b")
        }
        assert len(samples) == 4


class TestAdopt:
    def test_the_route_carries_the_version(self):
        made = router()
        made.adopt(checkpoint(GOOD, version=7))
        assert result(made.route(REQUEST, selection(), "d")).version == 7

    def test_what_was_written_is_read_back_to_the_bit(self):
        written = checkpoint(GOOD)
        posteriors, ignored = state.read(written)
        arrays, meta = state.write(posteriors)
        assert ignored == 0
        assert meta == written.meta
        assert all((arrays[name] == written.arrays[name]).all() for name in written.arrays)

    def test_a_posterior_over_other_features_is_ignored_and_counted(self):
        counters = Counters()
        made = router(counters=counters)
        made.adopt(Checkpoint(3, 9, {}, {"router/other-features": {"arms": ["small"], "counts": [90]}}))
        assert counters["router.state_ignored"] == 1
        assert result(made.route(REQUEST, selection(), "d")).reason.startswith("Nothing has been learned")

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda a, m: a.pop(state.KEY + "/shift"),
            lambda a, m: a.update({state.KEY + "/precision": np.zeros((2, 3, 3))}),
            lambda a, m: a.update({state.KEY + "/precision": np.zeros((2, DIMENSION, DIMENSION))}),
            lambda a, m: a.update({state.KEY + "/shift": np.full((2, DIMENSION), np.nan)}),
            lambda a, m: m.update({state.KEY: {"arms": ["small"], "counts": [200, 200]}}),
            lambda a, m: m.update({state.KEY: {"arms": ["small", "large"], "counts": ["many", -4]}}),
            lambda a, m: m.update({state.KEY: "nonsense"}),
        ],
    )
    def test_a_corrupt_posterior_is_ignored_and_counted(self, spoil):
        good, counters = checkpoint(GOOD), Counters()
        arrays, meta = dict(good.arrays), dict(good.meta)
        spoil(arrays, meta)
        made = router(counters=counters, explore=0.0)
        made.adopt(Checkpoint(2, 1, arrays, meta))
        assert counters["router.state_ignored"] >= 1
        assert {r.arm for r in routes(made, 20)} == {"large"}

    def test_one_corrupt_arm_does_not_take_the_others_with_it(self):
        good, counters = checkpoint(GOOD), Counters()
        arrays = {name: array.copy() for name, array in good.arrays.items()}
        arrays[state.KEY + "/precision"][1] *= -1
        made = router(counters=counters)
        made.adopt(Checkpoint(2, 1, arrays, good.meta))
        stds = {s.arm: s.std for s in result(made.route(REQUEST, selection(), "d")).scores}
        assert counters["router.state_ignored"] == 1
        assert stds["small"] < 0.1 < stds["large"]


class TestMisuse:
    def test_a_reference_that_is_not_an_arm(self):
        with pytest.raises(ConfigurationError, match="'huge' is not one of the arms"):
            LinearRouter([SMALL, LARGE], "huge", Settings(), Counters())

    def test_two_arms_of_one_name(self):
        with pytest.raises(ConfigurationError, match="two arms share a name"):
            LinearRouter([LARGE, LARGE], "large", Settings(), Counters())

    def test_a_selection_that_is_not_finite_raises_instead_of_choosing(self):
        with pytest.raises(ValueError, match="not a finite number"):
            result(router(GOOD).route(REQUEST, selection(utility=math.nan), "d"))


class TestContext:
    def test_shape_and_bias(self):
        x = context(REQUEST, selection(), SMALL)
        assert x.shape == (DIMENSION,)
        assert x[0] == 0.5

    def test_an_arm_without_examples_gets_none(self):
        with_examples, without = (
            context(REQUEST, selection(), LARGE),
            context(REQUEST, Selection(vector=unit(0)), LARGE),
        )
        assert (with_examples == without).all()
        assert (with_examples[1:7] == 0).all()
        assert (context(REQUEST, selection(), SMALL)[1:6] > 0).all()

    def test_the_summary_of_the_examples(self):
        examples = tuple(ScoredExample(str(i), s, u, "", "") for i, (s, u) in enumerate([(0.9, 0.2), (0.5, 0.6)]))
        x = context(REQUEST, Selection({"small": examples}), SMALL) * 2
        assert x[1:7] == pytest.approx([2 / 8, 0.9, 0.7, 0.6, 0.4, 0.4])
        assert (x[8:] == 0).all()

    def test_system_text_does_not_count_as_length(self):
        with_system = Request((Message("system", "x" * 9000), *REQUEST.messages), REQUEST.query)
        longer = Request((Message("user", "x" * 9000),), "x")
        assert context(with_system, selection(), SMALL)[7] == context(REQUEST, selection(), SMALL)[7]
        assert context(longer, selection(), SMALL)[7] > context(REQUEST, selection(), SMALL)[7]

    def test_the_projection_keeps_norms_and_angles_on_average(self):
        vectors = [unit(i) for i in range(300)]
        projected = np.array([context(REQUEST, Selection(vector=v), SMALL)[8:] for v in vectors]) * 2
        assert (np.square(projected).sum(axis=1)).mean() == pytest.approx(1.0, abs=0.1)
        near = unit(0) + 0.1 * unit(1)
        assert (
            np.linalg.norm(context(REQUEST, Selection(vector=near.astype(np.float32)), SMALL)[8:] * 2 - projected[0])
            < 0.3
        )

    def test_the_norm_stays_near_one(self):
        norms = [np.linalg.norm(context(REQUEST, selection(seed=i), SMALL)) for i in range(100)]
        assert 0.5 < min(norms) < max(norms) < 1.7

    def test_the_projection_is_the_one_that_stored_posteriors_know(self):
        """If this fails, the numbers changed: give FEATURES a new name, then pin the new values here."""
        ones = np.full(4, 0.5, dtype=np.float32)
        assert context(REQUEST, Selection(vector=ones), SMALL)[8:] == pytest.approx(PINNED, abs=1e-9)


PINNED = [
    -0.014729175189,
    0.397484140432,
    0.437291319947,
    -0.020612148985,
    -0.525939127381,
    0.239474443017,
    -0.031445160457,
    0.141538154748,
]
