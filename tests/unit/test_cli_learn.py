"""`iccache learn` uses the feedback log up, so it makes sure first that it was meant."""

import sqlite3

import pytest

from shared_core.cli.learn import is_known
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Publication
from shared_core.records import Checkpoint, DecisionRecord, Feedback
from tests.unit.test_cli import call, refused, write_feedback


@pytest.fixture
def store():
    opened = open_store("memory://", settings=Settings(), clock=lambda: 10.0)
    yield opened
    opened.close()


def rate(store, *arms):
    for n, arm in enumerate(arms):
        store.record(DecisionRecord(f"{arm}-{n}", "default", "", arm, (), (), 1.0, False, 0, 10.0))
        store.append_feedback(Feedback(f"{arm}-{n}", "user", 1.0, 10.0))


def test_a_file_that_is_not_there_is_refused_and_not_made(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = refused(monkeypatch, capsys, "learn", "--store", "sqlite:///iccache.bd", "--reference", "large")
    assert "sqlite:///iccache.bd does not exist" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reference", ["Large", "larg", "small"])
def test_a_reference_that_no_decision_names_uses_nothing_up(monkeypatch, capsys, tmp_path, reference):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0, 0.0])
    line = refused(monkeypatch, capsys, "learn", "--store", url, "--reference", reference)
    assert f"--reference {reference!r} is not an arm of {url}, which has feedback on 'large';" in line
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large") == 0
    assert "learned from 2 rewards" in capsys.readouterr().out
    assert sqlite3.connect(tmp_path / "pool.db").execute("SELECT version FROM progress").fetchone() == (1,)


def test_an_empty_reference_is_refused(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0])
    assert "--reference is empty" in refused(monkeypatch, capsys, "learn", "--store", url, "--reference", " ")


def test_nothing_is_known_before_anything_was_rated(store):
    assert not is_known(store, "large")
    rate(store, "exact")  # an exact hit says nothing about arms
    assert not is_known(store, "large")


def test_the_reference_may_be_named_late_in_the_log(store, monkeypatch):
    monkeypatch.setattr("shared_core.cli.learn.LOOK", 2)
    rate(store, *["small"] * 5)
    with pytest.raises(ConfigurationError, match="feedback on 'small'"):
        is_known(store, "large")
    rate(store, *["small"] * 5, "large")
    assert is_known(store, "large")


def test_what_was_learned_before_counts(store):
    lease = store.acquire("learner", "me", 60.0)
    learned = Checkpoint(version=1, offset=0, meta={"rewards": {"large": [0.9, 40]}})
    assert store.publish(Publication((0, 0), 1, 0, {"statistics": learned}), lease)
    rate(store, "small", "small")
    assert is_known(store, "large")


def test_a_round_without_result_says_why(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [])
    learn = lambda: (call(monkeypatch, "learn", "--store", url, "--reference", "large"), capsys.readouterr().out)
    assert learn()[1].startswith("nothing to learn: there is no feedback yet; pass reward=")
    write_feedback(url, [1.0])
    assert "learned from 1 rewards" in learn()[1]
    assert learn()[1] == "nothing to learn: no feedback since version 1\n"
    opened = open_store(url, settings=Settings())
    opened.append_feedback(Feedback("another", "user", 1.0, 10.0))
    assert opened.acquire("learner", "another learner", 60.0)
    assert learn()[1].startswith("another learner is at work")
    opened.close()
