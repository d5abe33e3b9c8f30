"""`iccache log rounds` shows what learning did, whichever process learned."""

import json

from shared_core.records import LearnRound, PartRound
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Publication
from tests.unit.test_cli import call, refused, write_feedback


def publish(url, *reports):
    store = open_store(url, settings=Settings())
    lease = store.acquire("learner", "me", 60.0)
    for report in reports:
        assert store.publish(Publication((report.version - 1, 0), report.version, 0, report=report), lease)
    store.release(lease)
    store.close()


def test_every_part_of_every_kept_round(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [])
    failed = PartRound("trunk", 0, {}, 1, 1, 0.5, "RuntimeError")
    learned = PartRound("router", 7, {"pair": 2, "features": 1}, 0, 1, 0.0123)
    publish(url, LearnRound(1, 1e9, 10, 0, 0, (learned,)), LearnRound(2, 1e9 + 60, 3, 0, 0, (failed,)))
    assert call(monkeypatch, "log", "rounds", "--store", url) == 0
    second, trunk, first, router = capsys.readouterr().out.splitlines()
    assert second.startswith("version 2, ") and second.endswith(": 3 new entries of the log")
    assert trunk == "  trunk: 0 folded, still version 1, 0.500 s; put aside: RuntimeError"
    assert first.startswith("version 1, ") and first.endswith(": 10 new entries of the log")
    assert router == "  router: 7 folded, 2 skipped (pair), 1 skipped (features), version 0 → 1, 0.012 s"


def test_as_json(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0])
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large", "--json") == 0
    ran = json.loads(capsys.readouterr().out)
    assert call(monkeypatch, "log", "rounds", "--store", url, "--json") == 0
    kept = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert kept == ran["rounds"]
    assert [part["part"] for part in kept[0]["parts"]] == ["router", "statistics"]


def test_before_the_first_round(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [])
    assert call(monkeypatch, "log", "rounds", "--store", url) == 0
    assert capsys.readouterr().out == "nothing was learned yet\n"
    assert "does not exist" in refused(monkeypatch, capsys, "log", "rounds", "--store", "sqlite:///none.db")


def test_a_call_of_learn_that_can_learn_nothing_names_what_is_put_aside(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0])

    def fail(*_):
        raise RuntimeError

    for trainee in (
        "shared_core.router.learner.LinearRouterTrainee",
        "shared_core.learning.statistics.ExampleStatistics",
    ):
        monkeypatch.setattr(f"{trainee}.fold", fail)
    learn = lambda: (call(monkeypatch, "learn", "--store", url, "--reference", "large"), capsys.readouterr().out)
    first = learn()[1]
    assert "learned from 0 rewards" in first
    assert "router: 0 folded, still version 0" in first and "put aside: RuntimeError" in first
    monkeypatch.undo()
    assert "learned from 1 rewards" in learn()[1]
