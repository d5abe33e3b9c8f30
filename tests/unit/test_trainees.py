"""What learns: a part that fails stops nobody else, comes back, and misses nothing."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from shared_core.assembly import trainees
from shared_core.learning import learner as module
from shared_core.learning.learner import Learner
from shared_core.learning.part import NEWER
from shared_core.learning.statistics import ExampleStatistics
from shared_core.records import Average, Checkpoint, Feedback, Statistics
from shared_core.router import state
from shared_core.router.learner import LinearRouterTrainee
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import PartProgress, Publication
from shared_core.telemetry import Counters
from shared_core.trainee import PairLesson, RatingLesson, State
from tests.unit.test_learner import (
    NOW,
    FakeClock,
    add_example,
    assert_learned_exactly,
    decide,
    rate,
    statistics,
    traffic,
)


@pytest.fixture
def store():
    opened = open_store("memory://", settings=Settings(), clock=FakeClock())
    yield opened
    opened.close()


class Sums:
    """A trainee that adds up scores, and fails when it is asked to."""

    def __init__(self, part="sums", *, replays=True, publish=lambda: True):
        self.part, self.replays, self.publish = part, replays, publish
        self.total, self.lessons, self.resumed = 0.0, [], []
        self.fails_at, self.state_is, self.fails_to_resume = None, None, False

    def resume(self, saved):
        if self.fails_to_resume:
            raise KeyError("a user's text")
        self.total = float(saved.arrays["total"]) if saved else 0.0
        self.resumed.append(saved and saved.version)

    def fold(self, lesson):
        if lesson.feedback.decision_id == self.fails_at:
            raise RuntimeError("a user's text")
        self.lessons.append(lesson)
        if isinstance(lesson, PairLesson):
            return "pair"
        self.total += lesson.feedback.score
        return ""

    def state(self):
        if not self.publish():
            return None
        return self.state_is or State({"total": np.array(self.total)})


def learn(store, *parts, owner="one", counters=None):
    return Learner(store, parts, FakeClock(), owner, counters)


def total(store, part="sums"):
    return float(store.checkpoint(part).arrays["total"])


BAD_STATES = {
    "nan": State({"total": np.array(np.nan)}),
    "inf, half precision": State({"total": np.array([1.0, np.inf], np.float16)}),
    "text": State({"total": np.array("text")}),
    "meta": State(meta={"x": float("nan")}),
    "meta of another type": State(meta={"x": object()}),
    "statistics": State(statistics={("s", "e1"): Statistics(quality=Average(7.0, 1))}),
    "statistics, not finite": State(statistics={("s", "e1"): Statistics(offload_value=float("inf"))}),
}


class TestAPartThatFails:
    @pytest.mark.parametrize("how", ["fold", "resume", *BAD_STATES])
    def test_the_others_go_on_and_it_is_counted_and_said_once(self, store, caplog, how):
        add_example(store, "e1")
        failing, counters = Sums(), Counters()
        failing.fails_at, failing.fails_to_resume = ("d2" if how == "fold" else None), how == "resume"
        failing.state_is = BAD_STATES.get(how)
        learner = learn(store, failing, *trainees("large", Settings()), counters=counters)
        made = traffic(store, 4)
        with caplog.at_level(logging.WARNING):
            report = learner.round()
            assert (report.consumed, report.published) == (4, True)
            made += traffic(store, 3, first=4)
            assert learner.round().consumed == 3
        assert_learned_exactly(store, made)
        assert statistics(store, "e1").helpfulness.count == 4
        assert store.checkpoint("sums") is None
        assert "sums" not in store.progress().parts
        assert counters.value("learn.aside", part="sums") == 1
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1 and "'sums' is not learned" in said[0] and "user's text" not in said[0]
        aside = report.rounds[0].parts[0]
        assert (aside.part, aside.folded, aside.before, aside.after) == ("sums", 0, 0, 0)
        assert aside.aside in {"RuntimeError", "KeyError", "StateIsUnusable", "TypeError", "ValueError"}

    def test_it_comes_back_at_the_next_start_and_learns_what_it_missed(self, store):
        made = traffic(store, 6)
        failing = Sums()
        failing.fails_at = "d3"
        learn(store, failing, LinearRouterTrainee("large")).run_until_drained()
        made += traffic(store, 2, first=6)
        report = learn(store, Sums(), LinearRouterTrainee("large"), owner="two").run_until_drained()
        assert (report.consumed, report.published) == (2, True)
        assert total(store) == pytest.approx(sum(feedback.score for _, feedback in made))
        assert_learned_exactly(store, made)

    def test_it_goes_on_from_its_last_checkpoint(self, store):
        made = traffic(store, 3)
        failing = Sums()
        learner = learn(store, failing)
        learner.round()
        failing.fails_at = "d4"
        made += traffic(store, 3, first=3)
        assert learner.round().consumed == 0
        assert store.progress().offset == 3  # nobody has learned the others
        again = Sums()
        assert learn(store, again, owner="two").run_until_drained().consumed == 3
        assert (again.resumed[0], len(again.lessons)) == (1, 3)
        assert total(store) == pytest.approx(sum(feedback.score for _, feedback in made))

    def test_it_comes_back_when_its_checkpoint_changes(self, store):
        failing = Sums()
        learner = learn(store, failing)
        traffic(store, 3)
        failing.fails_at = "d1"
        learner.round()
        assert learner.round().published is False
        failing.fails_at = None
        assert learner.round().published is False  # still aside
        now = store.progress()
        theirs = Checkpoint(now.version + 1, 2, {"total": np.array(10.0)})
        publication = Publication((now.version, now.offset), now.version + 1, 2, {"sums": theirs})
        lease = store.acquire("learner", "three", 60)
        assert store.publish(publication, lease)
        store.release(lease)
        assert learner.round().published
        assert total(store) == pytest.approx(10.0 + 0.3)  # only the third

    def test_if_every_part_fails_the_log_waits(self, store):
        failing = Sums()
        failing.fails_at = "d0"
        learner = learn(store, failing)
        traffic(store, 2)
        report = learner.run_until_drained()
        assert (report.consumed, report.more, store.progress().offset) == (0, False, 0)
        assert store.rounds()[0].parts[0].aside == "RuntimeError"
        assert learner.run_until_drained().published is False


class TestLagging:
    def test_a_new_part_learns_the_whole_log_and_the_others_nothing_twice(self, store, monkeypatch):
        monkeypatch.setattr(module, "BATCH", 4)
        add_example(store, "e1")
        made = traffic(store, 10)
        learn(store, *trainees("large", Settings())).run_until_drained()
        before = statistics(store, "e1")
        new = Sums()
        report = learn(store, *trainees("large", Settings()), new, owner="two").run_until_drained()
        assert (report.consumed, report.orphans, report.published) == (0, 0, True)
        assert [lesson.feedback.decision_id for lesson in new.lessons] == [f"d{i}" for i in range(10)]
        assert statistics(store, "e1") == before
        assert_learned_exactly(store, made)

    def test_a_new_part_that_cannot_replay_begins_where_the_log_was_learned(self, store):
        traffic(store, 3)
        learn(store, Sums("old")).run_until_drained()
        traffic(store, 2, first=3)
        new = Sums("new", replays=False)
        learn(store, Sums("old"), new, owner="two").run_until_drained()
        assert [lesson.feedback.decision_id for lesson in new.lessons] == ["d3", "d4"]

    def test_lessons_of_a_part_that_publishes_rarely_are_folded_again_after_a_restart(self, store):
        rare = Sums("rare", publish=lambda: len(rare.lessons) >= 5)
        learner = learn(store, rare, Sums())
        traffic(store, 3)
        assert learner.round().consumed == 3
        assert store.progress().parts.keys() == {"sums"}
        again = Sums("rare", publish=lambda: len(again.lessons) >= 5)
        learner = learn(store, again, Sums(), owner="two")
        learner.round()
        assert len(again.lessons) == 3
        traffic(store, 2, first=3)
        assert learner.round().consumed == 2
        assert store.progress().parts["rare"] == PartProgress(store.progress().version, 5)
        assert total(store, "rare") == pytest.approx(total(store))

    def test_what_another_learner_published_is_read_only_when_there_is_something_to_learn(self, store):
        part, read = Sums(), []
        idle = learn(store, part)
        idle.round()
        checkpoint = store.checkpoint
        store.checkpoint = lambda name: read.append(name) or checkpoint(name)
        made = traffic(store, 3)
        learn(store, Sums(), owner="two").run_until_drained()
        read.clear()
        assert [idle.round().published for _ in range(3)] == [False] * 3
        assert read == []
        made += traffic(store, 1, first=3)
        assert idle.round().consumed == 1
        assert read == ["sums"]
        assert total(store) == pytest.approx(sum(feedback.score for _, feedback in made))

    def test_a_publication_that_is_refused_is_folded_again(self, store):
        part = Sums()
        learner = learn(store, part)
        made = traffic(store, 3)
        publish = store.publish
        store.publish = lambda *_: False
        assert learner.round().published is False
        store.publish = publish
        assert learner.round().consumed == 3
        assert total(store) == pytest.approx(sum(feedback.score for _, feedback in made))

    def test_a_store_that_fails_while_it_publishes_counts_nothing_twice(self, store):
        learner = learn(store, Sums())
        made = traffic(store, 3)
        publish = store.publish

        def fail(*_):
            raise OSError("disk full")

        store.publish = fail
        with pytest.raises(OSError, match="disk full"):
            learner.round()
        store.publish = publish
        assert learner.round().consumed == 3
        assert total(store) == pytest.approx(sum(feedback.score for _, feedback in made))


class TestDamage:
    def test_a_newer_release_is_left_alone(self, store, caplog):
        learn(store, Sums("sums"), Sums("other")).run_until_drained()
        traffic(store, 2)
        learn(store, Sums("sums"), Sums("other"), owner="two").run_until_drained()
        with store._database.writing() as connection:
            connection.execute(
                "UPDATE parts SET head = replace(CAST(head AS TEXT), '\"v\":1', '\"v\":2') WHERE name='sums'"
            )
            connection.execute("UPDATE parts SET head = CAST(head AS BLOB)")
        traffic(store, 2, first=2)
        learner = learn(store, Sums("sums"), Sums("other"), owner="three")
        report = learner.run_until_drained()
        assert report.consumed == 2
        assert report.rounds[0].parts[0].aside == NEWER
        assert store.progress().parts["sums"].is_newer
        assert "upgrade this one" in caplog.text

    @pytest.mark.parametrize("column", ["version", "offset"])
    @pytest.mark.parametrize("value", ["'x'", "-3", "0", "9e999", str(2**62)])
    def test_damaged_progress_counts_nothing_twice(self, store, column, value):
        made = traffic(store, 5)
        add_example(store, "e1")
        learn(store, *trainees("large", Settings())).run_until_drained()
        with store._database.writing() as connection:
            connection.execute(f"UPDATE progress SET {column} = {value}")
        made += traffic(store, 2, first=5)
        learner = learn(store, *trainees("large", Settings()), owner="two")
        report = learner.run_until_drained()
        assert (report.consumed, report.published) == (2, True)
        assert_learned_exactly(store, made)
        assert store.progress().version >= 2

    def test_damaged_progress_is_that_of_the_part_that_has_learned_most(self, store, monkeypatch):
        """Also while another part learns again from the start."""
        monkeypatch.setattr(module, "BATCH", 4)
        made = traffic(store, 10)
        learn(store, *trainees("large", Settings())).run_until_drained()
        with store._database.writing() as connection:
            connection.execute("UPDATE progress SET offset = 'x'")
            connection.execute("UPDATE parts SET head = x'00' WHERE name = 'router'")
        learner = learn(store, *trainees("large", Settings()), owner="two")
        report = learner.round()
        assert (report.consumed, report.published, store.progress().offset) == (0, True, 10)
        assert learner.run_until_drained().consumed == 0
        assert_learned_exactly(store, made)

    def test_rewards_that_cannot_be_start_again(self, store):
        made = traffic(store, 2)
        lease = store.acquire("learner", "x", 60)
        damaged = Checkpoint(1, 0, meta={"rewards": {"large": [0.0, -1], "small": [7.0, 3], "x": "y", "z": [0.5, 2]}})
        assert store.publish(Publication((0, 0), 1, 0, {"statistics": damaged}), lease)
        store.release(lease)
        assert learn(store, *trainees("large", Settings()), owner="two").round().consumed == 2
        assert_learned_exactly(store, made)
        assert store.checkpoint("statistics").meta["rewards"] == {
            "large": [0.0, 1],
            "small": [pytest.approx(0.7), 1],
            "z": [0.5, 2],
        }

    @pytest.mark.parametrize(
        "damaged",
        [
            Statistics(quality=Average(0.5, -1), helpfulness=Average(0.5, -1)),
            Statistics(quality=Average(-3.0, 1), helpfulness=Average(1e300, 2)),
            Statistics(offload_value=-5.0, offload_at=1e30, replay_count=-2),
            Statistics(offload_value=1e300, offload_at=-1e300),
        ],
    )
    def test_damaged_statistics_of_one_example_cost_that_example_only(self, damaged):
        """The store refuses most of them; what it lets through stops nobody."""
        trainee = ExampleStatistics("large", 0.9)
        trainee.resume(None)
        record = replace(decide(open_store("memory://", settings=Settings()), "d", "small", examples=["e1", "e2"]))
        known = {"e1": damaged, "e2": Statistics()}
        assert trainee.fold(RatingLesson(Feedback("d", "user", 1.0, NOW), record, known, NOW)) == ""
        learned = trainee.state().statistics
        assert learned["s", "e2"].helpfulness == Average(1.0, 1)
        assert learned["s", "e1"].helpfulness.count >= 1
        assert 0.0 <= learned["s", "e1"].helpfulness.value <= 1.0
        assert learned["s", "e1"].offload_value >= 0.5
        assert learned["s", "e1"].offload_at == NOW

    def test_features_out_of_all_bounds_are_skipped(self, store):
        made = traffic(store, 2)
        decide(store, "far", x=(1e25,) * len(made[0][0].features))
        rate(store, "far", 1.0)
        report = learn(store, LinearRouterTrainee("large")).round()
        assert report.rounds[0].parts[0].skipped == {"features": 1}
        got, ignored = state.read(store.checkpoint("router"))
        assert (sum(posterior.count for posterior in got.values()), ignored) == (2, 0)


class TestPairs:
    def pair(self, store, first="d1", second="d2", rater="judge"):
        store.append_feedback(Feedback(first, rater, 1.0, NOW, than=second))

    def test_they_arrive_as_pairs_with_their_rater_and_both_decisions(self, store):
        decide(store, "d1", "small")
        decide(store, "d2", "large")
        self.pair(store)
        part = Sums()
        report = learn(store, part, *trainees("large", Settings())).round()
        [lesson] = part.lessons
        assert isinstance(lesson, PairLesson)
        assert (lesson.first.arm, lesson.second.arm, lesson.feedback.rater) == ("small", "large", "judge")
        assert report.consumed == 1
        assert [(found.part, found.folded, found.skipped) for found in report.rounds[0].parts] == [
            ("sums", 0, {"pair": 1}),
            ("router", 0, {"pair": 1}),
            ("statistics", 0, {"pair": 1}),
        ]
        assert store.checkpoint("statistics").meta["rewards"] == {}

    @pytest.mark.parametrize("missing", ["d1", "d2"])
    def test_a_pair_of_an_unknown_decision_is_an_orphan(self, store, missing):
        decide(store, {"d1": "d2", "d2": "d1"}[missing])
        self.pair(store)
        part = Sums()
        report = learn(store, part).round()
        assert (report.consumed, report.orphans, part.lessons) == (1, 1, [])

    def test_ratings_name_their_rater(self, store):
        decide(store, "d1")
        rate(store, "d1", 1.0, rater="user-7")
        part = Sums()
        learn(store, part).round()
        assert [lesson.feedback.rater for lesson in part.lessons] == ["user-7"]


def test_a_round_says_what_it_did_to_each_part(store):
    traffic(store, 3)
    decide(store, "plain", "large", x=())
    rate(store, "plain", 1.0)
    rate(store, "unknown", 1.0)
    learner = learn(store, *trainees("large", Settings()))
    [first] = learner.run_until_drained().rounds
    traffic(store, 1, first=3)
    learner.run_until_drained()
    assert (first.version, first.at, first.consumed, first.orphans) == (1, NOW, 5, 1)
    router, statistics_ = first.parts
    assert (router.part, router.folded, router.skipped) == ("router", 3, {"features": 1})
    assert (router.before, router.after, router.aside) == (0, 1, "")
    assert (statistics_.part, statistics_.folded, statistics_.skipped) == ("statistics", 4, {})
    assert router.seconds > 0.0
    second, kept = store.rounds()
    assert kept == first
    assert [(part.before, part.after, part.folded) for part in second.parts] == [(1, 2, 1), (1, 2, 1)]


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_learners_whose_clocks_differ_by_an_hour_learn_the_same(store, ahead):
    add_example(store, "e1")
    one = learn(store, *trainees("large", Settings()))
    other = Learner(store, trainees("large", Settings()), lambda: NOW + ahead, "two")
    made = []
    for turn, learner in enumerate((one, other, one, other)):
        made += traffic(store, 6, first=6 * turn)
        assert learner.run_until_drained().consumed == 6
    assert_learned_exactly(store, made)
    found = statistics(store, "e1")
    assert found.helpfulness.count == 16
    assert 0.0 < found.offload_value <= 16.0
    assert found.offload_at in (NOW, NOW + min(ahead, 0.0))
