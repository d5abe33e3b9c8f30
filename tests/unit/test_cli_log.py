"""`iccache log export` writes decisions with their feedback, and no texts."""

import json
import stat
import sys
import time

import numpy as np
import pytest

from shared_core.records import ArmRecord, DecisionRecord, Feedback
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.unit.test_cli import call, refused


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A store with three decisions of two scopes, one of them rated twice."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/pool.db"
    store = open_store(url, settings=Settings())
    now = time.time()
    for number, scope in enumerate(["acme", "acme", "other"]):
        record = DecisionRecord(
            f"d{number}",
            scope,
            "t",
            "small",
            (0.5, 0.25),
            created_at=now + number,
            exact_key="a-hash-of-the-conversation",
            candidates=("e1", "e2"),
            similarity=(0.9, 0.8),
            arms=(ArmRecord("small", 0.5, utility=(0.9, 0.8), shown=(0,)), ArmRecord("large", 0.8)),
            surface={"words": 3},
            vector=np.array([0.6, 0.8], dtype=np.float16),
        )
        store.record(record)
    store.append_feedback(Feedback("d0", "user", 1.0, now))
    store.append_feedback(Feedback("d0", "reward", 0.5, now))
    store.close()
    return url


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_decision_is_a_line_with_its_feedback(monkeypatch, capsys, tmp_path, url):
    assert call(monkeypatch, "log", "export", "--store", url, "log.jsonl") == 0
    rows = lines(tmp_path / "log.jsonl")
    assert [row["id"] for row in rows] == ["d0", "d1", "d2"]
    assert [(f["rater"], f["score"]) for f in rows[0]["feedback"]] == [("user", 1.0), ("reward", 0.5)]
    assert rows[1]["feedback"] == []
    assert rows[0]["arms"][0]["utility"] == [0.9, 0.8]
    assert rows[0]["surface"] == {"words": 3}
    assert not {"vector", "exact_key"} & set(rows[0])
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600
    assert capsys.readouterr().out == ""


def test_vectors_are_written_where_asked_for(monkeypatch, tmp_path, url):
    assert call(monkeypatch, "log", "export", "--store", url, "--vectors", "log.jsonl") == 0
    assert lines(tmp_path / "log.jsonl")[0]["vector"] == pytest.approx([0.6, 0.8], abs=1e-3)


def test_one_scope(monkeypatch, capsys, tmp_path, url):
    assert call(monkeypatch, "log", "export", "--store", url, "--scope", "other", "log.jsonl") == 0
    assert [row["id"] for row in lines(tmp_path / "log.jsonl")] == ["d2"]
    line = refused(monkeypatch, capsys, "log", "export", "--store", url, "--scope", "acne", "none.jsonl")
    assert "holds no decisions of the scope 'acne'" in line
    assert not (tmp_path / "none.jsonl").exists()


def test_standard_output(monkeypatch, capfdbinary, url):
    assert call(monkeypatch, "log", "export", "--store", url, "-") == 0
    assert [json.loads(line)["id"] for line in capfdbinary.readouterr().out.splitlines()] == ["d0", "d1", "d2"]


def test_a_file_that_exists_is_not_overwritten(monkeypatch, capsys, tmp_path, url):
    (tmp_path / "log.jsonl").write_text("mine")
    assert "log.jsonl exists; name a new file" in refused(
        monkeypatch, capsys, "log", "export", "--store", url, "log.jsonl"
    )
    assert (tmp_path / "log.jsonl").read_text() == "mine"


def test_a_store_that_is_not_there(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = refused(monkeypatch, capsys, "log", "export", "--store", "sqlite:///iccache.bd", "log.jsonl")
    assert "sqlite:///iccache.bd does not exist" in line
    assert list(tmp_path.iterdir()) == []


def test_misuse_names_the_command(monkeypatch, capsys):
    assert "See iccache log export --help" in refused(monkeypatch, capsys, "log", "export", "--colour", "x")


def test_half_a_file_is_not_left(monkeypatch, capsys, tmp_path, url):
    def rows(*_, **__):
        yield {"id": "d0"}
        raise ConnectionError("the server left")

    monkeypatch.setattr("shared_core.learning.log.rows", rows)
    assert "the server left" in refused(monkeypatch, capsys, "log", "export", "--store", url, "log.jsonl")
    assert not (tmp_path / "log.jsonl").exists()


def test_without_pyarrow_the_extra_is_named(monkeypatch, capsys, tmp_path, url):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = refused(monkeypatch, capsys, "log", "export", "--store", url, "log.parquet")
    assert "pyarrow is not installed; run: pip install 'iccache[parquet]'" in line
    assert not (tmp_path / "log.parquet").exists()


@pytest.mark.parametrize("vectors", [True, False])
def test_parquet_holds_the_same_rows(monkeypatch, tmp_path, url, vectors):
    parquet = pytest.importorskip("pyarrow.parquet")
    option = "--vectors" if vectors else "--no-vectors"
    assert call(monkeypatch, "log", "export", "--store", url, option, "log.parquet") == 0
    assert call(monkeypatch, "log", "export", "--store", url, option, "log.jsonl") == 0
    rows = parquet.read_table(tmp_path / "log.parquet").to_pylist()
    wanted = lines(tmp_path / "log.jsonl")
    assert [row["id"] for row in rows] == ["d0", "d1", "d2"]
    for row, line in zip(rows, wanted, strict=True):
        row["surface"] = dict(row["surface"])
        if vectors:
            assert row.pop("vector") == pytest.approx(line.pop("vector"))
        assert row == line
