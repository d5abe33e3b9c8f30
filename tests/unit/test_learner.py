"""The learner: what feedback teaches, and that each entry counts exactly once in every case."""

import math
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from shared_core.assembly import trainees
from shared_core.learning import learner as module
from shared_core.learning.learner import Learner, LearnReport
from shared_core.router import state
from shared_core.router.bandit import observe
from shared_core.router.features import DIMENSION
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Publication
from shared_core.records import Average, Checkpoint, DecisionRecord, Entry, Example, Feedback, Statistics, Texts
from tests.servers import RedisServer

NOW = 1_000_000.0


class FakeClock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(clock):
    opened = open_store("memory://", settings=Settings(), clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def learner(store, clock):
    return make(store, clock)


def make(store, clock, owner="one", **settings):
    return Learner(store, trainees("large", Settings(**settings)), clock, owner)


def add_example(store, example_id, scope="s"):
    entry = Entry(example_id, scope, "t", "traffic", "large", NOW, 10)
    store.record(example=Example(entry, Texts("query", "answer"), np.ones(4, dtype=np.float32) / 2))


def features(seed):
    return tuple(np.random.default_rng(seed).normal(scale=0.3, size=DIMENSION).tolist())


def decide(store, decision_id, arm="small", *, scope="s", examples=(), admitted="", x=None):
    record = DecisionRecord(
        id=decision_id,
        scope=scope,
        task="t",
        arm=arm,
        features=features(len(decision_id)) if x is None else x,
        example_ids=tuple(examples),
        propensity=0.5,
        explored=False,
        version=0,
        created_at=NOW,
        admitted_id=admitted,
    )
    store.record(decision=record)
    return record


def rate(store, decision_id, score, rater="user", at=NOW):
    feedback = Feedback(decision_id, rater, score, at)
    assert store.append_feedback(feedback)
    return feedback


def traffic(store, n, first=0):
    """`n` rated decisions of both arms; what they are is fixed by their number."""
    made = []
    for i in range(first, first + n):
        arm = "large" if i % 3 == 0 else "small"
        record = decide(store, f"d{i}", arm, examples=("e1", "e2") if arm == "small" else (), x=features(i))
        made.append((record, rate(store, record.id, (i * 7 % 11) / 10)))
    return made


def one_pass(made):
    """The posteriors of a learner that saw the whole log in one undisturbed pass."""
    posteriors = {}
    for record, feedback in made:
        before = posteriors.get(record.arm) or state.initial(reference=record.arm == "large")
        posteriors[record.arm] = observe(before, np.array(record.features), feedback.score)
    return posteriors


def assert_learned_exactly(store, made):
    got, ignored = state.read(store.checkpoint("router"))
    want = one_pass(made)
    assert ignored == 0
    assert set(got) == set(want)
    for arm, posterior in want.items():
        assert got[arm].precision.tobytes() == posterior.precision.tobytes()
        assert got[arm].shift.tobytes() == posterior.shift.tobytes()
        assert got[arm].count == posterior.count
    assert store.progress().offset == len(made)


def statistics(store, example_id, scope="s"):
    (row,) = store.rows(scope, [example_id])
    return row.entry.statistics


class Disturbed:
    """A store in whose `publish` something happens before or after."""

    def __init__(self, store, before=lambda: None, after=lambda: None):
        self._store, self._before, self._after = store, before, after
        self.dead = False

    def __getattr__(self, name):
        return getattr(self._store, name)

    def publish(self, *args):
        self._before()
        result = self._store.publish(*args)
        self._after()
        return result

    def release(self, lease):
        if not self.dead:  # a killed process gives nothing back
            self._store.release(lease)


class Killed(BaseException):
    """The process ends here."""


def killed(store, *, before):
    def die():
        doomed.dead = True
        raise Killed

    doomed = Disturbed(store, **{"before" if before else "after": die})
    return doomed


class TestPosteriors:
    def test_several_rounds_equal_one_pass(self, store, learner):
        made = []
        for n in (1, 5, 0, 17, 3):
            made += traffic(store, n, first=len(made))
            assert learner.round().consumed == n
        assert_learned_exactly(store, made)

    def test_a_long_log_is_taken_in_batches_until_it_is_drained(self, store, learner, monkeypatch):
        monkeypatch.setattr(module, "BATCH", 10)
        made = traffic(store, 35)
        assert learner.round() == LearnReport(consumed=10, published=True, version=1)
        assert learner.run_until_drained() == LearnReport(consumed=25, published=True, version=4)
        assert_learned_exactly(store, made)

    def test_a_long_log_leaves_requests_the_interpreter_time_and_again(self, store, learner, monkeypatch):
        left = []
        monkeypatch.setattr(module, "yield_to_requests", lambda: left.append(learner))
        made = traffic(store, 5 * module.CHUNK)
        assert learner.round().consumed == len(made)
        assert len(left) == 5
        assert_learned_exactly(store, made)

    def test_two_raters_of_one_decision_are_two_rewards(self, store, learner):
        record = decide(store, "d0")
        made = [(record, rate(store, "d0", 1.0, "user")), (record, rate(store, "d0", 0.5, "judge"))]
        learner.round()
        assert_learned_exactly(store, made)

    @pytest.mark.parametrize("x", [(), (1.0, 2.0)])
    def test_features_that_cannot_be_read_move_no_posterior_but_count_as_reward(self, store, learner, x):
        decide(store, "d0", "large", x=x)
        rate(store, "d0", 1.0)
        assert learner.round().consumed == 1
        assert state.read(store.checkpoint("router")) == ({}, 0)
        assert store.checkpoint("statistics").meta["rewards"] == {"large": [1.0, 1]}

    def test_without_feedback_nothing_is_published(self, store, learner):
        assert learner.round() == LearnReport()
        assert store.progress().version == 0

    def test_the_parts_of_others_and_the_features_of_other_releases_are_kept(self, store, learner):
        lease = store.acquire("learner", "someone", 60)
        theirs = Checkpoint(1, 0, {"centroids": np.arange(3.0, dtype=np.float32)}, {"threshold": 0.4})
        router = Checkpoint(1, 0, {"router/other/shift": np.ones(2)}, {"router/other": {"arms": ["small"]}})
        assert store.publish(Publication((0, 0), 1, 0, {"theirs": theirs, "router": router}), lease)
        store.release(lease)
        made = traffic(store, 4)
        assert learner.round().version == 2
        assert store.checkpoint("theirs") == theirs
        assert store.checkpoint("theirs").arrays["centroids"].tolist() == [0, 1, 2]
        found = store.checkpoint("router")
        assert found.arrays["router/other/shift"].tolist() == [1, 1]
        assert found.meta["router/other"] == {"arms": ["small"]}
        assert set(state.read(found)[0]) == set(one_pass(made))


class TestOrphans:
    def test_they_are_counted_and_passed(self, store, learner):
        rate(store, "never decided", 1.0)
        made = traffic(store, 2)
        rate(store, "nor this", 0.0)
        report = learner.round()
        assert (report.consumed, report.orphans, report.published) == (4, 2, True)
        assert store.progress().offset == 4
        assert learner.round().consumed == 0
        assert state.read(store.checkpoint("router"))[0].keys() == one_pass(made).keys()

    def test_a_decision_that_expired_makes_one(self, store, learner, clock):
        traffic(store, 1)
        clock.now += Settings().decision_ttl + 1
        assert learner.round().orphans == 1

    @pytest.mark.parametrize("score", [math.nan, -0.1, 1.1])
    def test_an_invalid_score_is_counted_and_skipped(self, store, clock, score):
        made = traffic(store, 1)
        store_ = Disturbed(store)
        bad = replace(made[0][1], score=score)
        store_.feedback = lambda after, limit: [(1, bad)] if after < 1 else []
        report = make(store_, clock).round()
        assert (report.consumed, report.unusable) == (1, 1)
        assert state.read(store.checkpoint("router"))[0] == {}


def end_lease(store):  # stores use a clock of their own
    with store._database.writing() as connection:
        connection.execute("UPDATE leases SET expires_at = expires_at - ?", (module.LEASE_SECONDS + 1,))


class TestKilled:
    @pytest.mark.parametrize("before", [True, False])
    def test_another_learner_takes_over_and_the_result_is_that_of_one_pass(self, store, clock, before):
        for example_id in ("e1", "e2"):
            add_example(store, example_id)
        made = traffic(store, 12)
        with pytest.raises(Killed):
            make(killed(store, before=before), clock, "doomed").round()
        assert store.progress().version == (0 if before else 1)
        heir = make(store, clock, "heir")
        made += traffic(store, 6, first=12)
        assert heir.round() == LearnReport()  # the dead one's lease still holds
        end_lease(store)
        heir.run_until_drained()
        assert_learned_exactly(store, made)
        assert statistics(store, "e1").helpfulness.count == 12

    def test_an_error_gives_the_lease_back(self, store, clock):
        traffic(store, 3)

        def fail():
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            make(Disturbed(store, before=fail), clock, "one").round()
        assert make(store, clock, "two").round().consumed == 3


class TestContention:
    def test_while_another_holds_the_lease_nothing_happens(self, store, learner):
        traffic(store, 3)
        lease = store.acquire("learner", "another", 60)
        assert learner.round() == LearnReport()
        assert learner.run_until_drained() == LearnReport()
        store.release(lease)
        assert learner.round().consumed == 3

    def test_a_lease_that_ran_out_publishes_nothing_and_counts_nothing_twice(self, store, clock):
        made = traffic(store, 8)
        faster = make(store, clock, "faster")

        def stall():
            end_lease(store)
            assert faster.round().published

        report = make(Disturbed(store, before=stall), clock, "slow").round()
        assert (report.consumed, report.published) == (0, False)
        assert_learned_exactly(store, made)
        made += traffic(store, 2, first=8)
        assert make(store, clock, "slow").round().published
        assert_learned_exactly(store, made)

    def test_a_checkpoint_published_meanwhile_is_not_overwritten(self, store, clock):
        """Even under the very same lease, as when its owner took it twice."""
        made = traffic(store, 4)

        def overtake():
            lease = store.acquire("learner", "slow", module.LEASE_SECONDS)
            assert store.publish(Publication((0, 0), 1, 0, {"theirs": Checkpoint(1, 0)}), lease)

        report = make(Disturbed(store, before=overtake), clock, "slow").round()
        assert (report.consumed, report.published) == (0, False)
        assert make(store, clock, "slow").round() == LearnReport(consumed=4, published=True, version=2)
        assert store.checkpoint("theirs") == Checkpoint(1, 0)
        assert_learned_exactly(store, made)


class TestStatistics:
    @pytest.fixture(autouse=True)
    def examples(self, store):
        for example_id in ("e1", "e2"):
            add_example(store, example_id)

    def test_the_rating_of_an_answer_is_the_quality_of_the_example_it_became(self, store, learner):
        decide(store, "d0", "large", admitted="e1")
        rate(store, "d0", 0.9)
        learner.round()
        assert statistics(store, "e1") == Statistics(quality=Average(0.9, 1))
        assert statistics(store, "e2") == Statistics()

    def test_the_rating_of_an_answer_is_the_helpfulness_of_its_examples(self, store, learner):
        decide(store, "d0", "small", examples=["e1", "e2"])
        rate(store, "d0", 0.2)
        learner.round()
        decide(store, "d1", "small", examples=["e2"])
        rate(store, "d1", 0.4)
        learner.round()
        assert statistics(store, "e1").helpfulness == Average(0.2, 1)
        assert statistics(store, "e2").helpfulness == Average(0.2, 1).update(0.4)
        assert statistics(store, "e2").quality == Average()

    def offload_value(self, store, learner, arm, score, reference_scores=(0.5, 0.9, 0.4), examples=("e1", "e2")):
        for i, reference_score in enumerate(reference_scores):
            decide(store, f"r{i}", "large")
            rate(store, f"r{i}", reference_score)
        decide(store, "d", arm, examples=examples)
        rate(store, "d", score)
        learner.round()
        return statistics(store, "e1").offload_value

    def test_a_successful_offload_is_shared_by_its_examples(self, store, learner):
        assert (
            self.offload_value(store, learner, "small", 0.55) == 0.5
        )  # 0.55 ≥ 0.9 · 0.6, the mean of 0.5, 0.9 and 0.4
        assert statistics(store, "e2").offload_value == 0.5
        assert statistics(store, "e1").offload_at == NOW

    def test_a_poor_answer_is_not_a_successful_offload(self, store, learner):
        assert self.offload_value(store, learner, "small", 0.53) == 0.0

    def test_the_reference_offloads_nothing(self, store, learner):
        assert self.offload_value(store, learner, "large", 1.0) == 0.0

    def test_before_the_reference_was_rated_it_is_held_to_be_good(self, store, learner):
        assert self.offload_value(store, learner, "small", 0.71, ()) == 0.0  # 0.9 · 0.8 is 0.72
        decide(store, "more", "small", examples=["e1"])
        rate(store, "more", 0.73)
        learner.round()
        assert statistics(store, "e1").offload_value == 1.0

    def test_the_mean_reward_of_the_reference_outlives_a_round(self, store, learner):
        decide(store, "r", "large", x=())  # a fallback counts as well
        rate(store, "r", 0.2)
        learner.round()
        assert self.offload_value(store, learner, "small", 0.2, ()) == 0.5

    def test_offload_value_decays_by_a_tenth_an_hour(self, store, learner):
        self.offload_value(store, learner, "small", 1.0, examples=("e1",))
        decide(store, "later", "small", examples=["e1"])
        rate(store, "later", 1.0, at=NOW - 2 * 3600)
        learner.round()
        assert statistics(store, "e1").offload_value == pytest.approx(1.0 + 0.81)
        assert statistics(store, "e1").offload_at == NOW

    def test_a_clock_that_runs_ahead_does_not_stop_the_decay(self, store, learner):
        decide(store, "d", "small", examples=["e1"])
        rate(store, "d", 1.0, at=NOW + 1e6)
        learner.round()
        assert statistics(store, "e1").offload_at == NOW

    def test_scopes_do_not_mix(self, store, learner):
        add_example(store, "e1", scope="other")
        decide(store, "d0", "small", scope="other", examples=["e1"])
        rate(store, "d0", 1.0)
        learner.round()
        assert statistics(store, "e1", "s") == Statistics()
        assert statistics(store, "e1", "other").helpfulness.count == 1

    def test_an_example_that_is_gone_stops_nothing(self, store, learner):
        decide(store, "d0", "small", examples=["gone", "e1"], admitted="gone too")
        rate(store, "d0", 1.0)
        assert learner.round().published
        assert statistics(store, "e1").helpfulness.count == 1
        assert store.rows("s", ["gone", "gone too"]) == []

    def test_only_what_was_rated_is_fed_to_the_replicas(self, store, learner):
        before = store.position()
        decide(store, "d0", "small", examples=["e2"])
        rate(store, "d0", 1.0)
        learner.round()
        assert [(c.kind, c.id) for c in store.changes(before)] == [("statistics", "e2")]


def test_a_learner_goes_on_after_the_store_has_lost_everything(clock):
    """Redis emptied or restored from an older copy: the log starts again, below this learner's offset."""
    with RedisServer() as server, closing(open_store(server.url(), settings=Settings(), clock=clock)) as store:
        learner = make(store, clock)
        traffic(store, 40)
        assert learner.run_until_drained().consumed == 40
        store._wire._client.flushall()
        made = traffic(store, 30)
        assert learner.run_until_drained().consumed == 30
        assert_learned_exactly(store, made)
