"""`iccache doctor` says what of a store can be read, and saves that into a new file."""

import sqlite3
import stat

import pytest

from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.sqlite_doctor import examine
from tests.fakes import FakeClock
from tests.stores.redis_backend import RedisBackend
from tests.stores.makers import make_checkpoint, make_example, publish
from tests.stores.test_sqlite_damaged import FULL, PAGE, damaged, opened, read_all, whole
from tests.unit.test_cli import call, refused

__all__ = ["whole"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sound_store(monkeypatch, capsys, tmp_path, whole):
    (tmp_path / "pool.db").write_bytes(whole)
    assert call(monkeypatch, "doctor", "sqlite:///pool.db") == 0
    out = capsys.readouterr().out
    assert "120 examples\n" in out and "60 ratings\n" in out and "cannot be read" not in out
    assert (tmp_path / "pool.db").read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["pool.db"]


@pytest.mark.parametrize("byte", [0xAA, 0x00])
def test_a_damaged_store_is_counted_and_saved(monkeypatch, capsys, tmp_path, whole, byte):
    path = damaged(whole, tmp_path / "pool.db", len(whole) // PAGE // 2, 3, byte)
    before = path.read_bytes()
    assert call(monkeypatch, "doctor", "sqlite:///pool.db") == 1
    assert "cannot be read" in capsys.readouterr().out
    assert call(monkeypatch, "doctor", "sqlite:///pool.db", "--repair", "new.db") == 0
    assert "new.db holds what can be read" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.db", "pool.db"]
    assert stat.S_IMODE((tmp_path / "new.db").stat().st_mode) == 0o600
    sick, mended = opened(path), opened(tmp_path / "new.db")
    assert sum(read_all(mended)) > 0.7 * sum(FULL)
    assert mended.unreadable == 0
    for have, saved in zip(read_all(sick), read_all(mended), strict=True):
        assert saved >= have or have - saved <= 20  # a row without its texts is not saved
    mended.put([make_example("e900")])
    assert mended.claim("embedder", "another") == "minilm"
    assert mended.feedback(0)
    assert sqlite3.connect("new.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    sick.close()
    mended.close()


def test_every_page_in_turn(tmp_path, whole):
    """All but the first: whatever is damaged, the new file is sound."""
    for page in range(1, len(whole) // PAGE, 2):
        new = tmp_path / f"new-{page}.db"
        findings = examine(damaged(whole, tmp_path / "pool.db", page), new)
        store = opened(new)
        found = read_all(store)
        assert store.unreadable == 0
        assert found == FULL or sum(finding.lost for finding in findings)
        assert store.count("s") + store.count("t") == findings[0].readable
        store.close()
        new.unlink()


def test_what_is_missing_is_counted_wherever_the_damage_is(tmp_path, whole):
    """A page of which only the end is damaged may look sound: SQLite then reports fewer rows, and no error."""
    silent = []
    for page in range(1, len(whole) // PAGE - 3):
        start, path = page * PAGE + PAGE // 2, tmp_path / f"{page}.db"
        path.write_bytes(whole[:start] + b"\xaa" * 3 * PAGE + whole[start + 3 * PAGE :])
        found = {finding.name: finding for finding in examine(path)}
        if found["examples"].readable < 120 and not found["examples"].lost:
            silent.append(page)
    assert silent == []


@pytest.mark.parametrize("cut", [0.4, 0.7, 0.95])
def test_a_file_that_was_cut_short(monkeypatch, tmp_path, whole, cut):
    (tmp_path / "pool.db").write_bytes(whole[: int(len(whole) * cut) // PAGE * PAGE])
    assert call(monkeypatch, "doctor", "sqlite:///pool.db", "--repair", "new.db") == 0
    store = opened(tmp_path / "new.db")
    assert sum(read_all(store)) > 0.15 * cut * sum(FULL)
    store.close()


def test_values_that_cannot_be_read_are_left_behind(tmp_path, whole):
    path = tmp_path / "pool.db"
    path.write_bytes(whole)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE examples SET texts = x'00' WHERE id = 'e001'")  # of two scopes
        connection.execute("UPDATE examples SET statistics = x'00' WHERE id = 'e002'")
        connection.execute("UPDATE examples SET id = CAST(x'ff' AS TEXT) WHERE id = 'e003' AND scope = 's'")
        connection.execute("UPDATE decisions SET scope = 'elsewhere' WHERE id = 'e001'")
        connection.execute("UPDATE feedback SET judgement = '{}' WHERE offset = 3")
        connection.execute("UPDATE parts SET head = 'soon'")
    connection.close()
    found = {finding.name: (finding.readable, finding.lost) for finding in examine(path, tmp_path / "new.db")}
    assert found == {
        "examples": (117, 3),
        "exact answers": (60, 0),
        "decisions": (60, 0),
        "waiting answers": (60, 0),
        "ratings": (59, 1),
        "progress of learning": (1, 0),
        "learned parts": (0, 1),
        "pieces of learned parts": (1, 0),
        "reports of rounds": (0, 0),
        "facts about the pool": (1, 0),
    }
    store = opened(tmp_path / "new.db")
    assert store.statistics("s", ["e002"])["e002"].quality.count == 0
    assert store.decision_counts() == {"s": 60}
    assert [offset for offset, _ in store.feedback(0)] == [1, 2, *range(4, 61)]
    lease = store.acquire("learner", "me", 60)
    assert publish(store, make_checkpoint(2, 60), (1, 5), {}, lease)
    store.close()


def test_what_is_no_store_or_in_the_way_is_named(monkeypatch, capsys, tmp_path, whole):
    (tmp_path / "pool.db").write_bytes(whole)
    (tmp_path / "notes.txt").write_text("precious " * 1000)
    assert "new.db exists" in refused(
        monkeypatch, capsys, "doctor", "sqlite:///pool.db", "--repair", "notes.txt"
    ).replace("notes.txt", "new.db")
    assert "not a SQLite database" in refused(monkeypatch, capsys, "doctor", "sqlite:///notes.txt")
    assert "does not exist" in refused(monkeypatch, capsys, "doctor", "sqlite:///none.db")
    assert "memory" in refused(monkeypatch, capsys, "doctor", "memory://")
    wreck = damaged(whole, tmp_path / "wreck.db", 0)
    assert refused(monkeypatch, capsys, "doctor", f"sqlite:///{wreck}")


def test_the_new_file_may_be_named_as_a_store(monkeypatch, capsys, tmp_path, whole):
    (tmp_path / "pool.db").write_bytes(whole)
    assert call(monkeypatch, "doctor", "sqlite:///pool.db", "--repair", "sqlite:///new.db") == 0
    assert (tmp_path / "new.db").exists()
    capsys.readouterr()
    said = refused(monkeypatch, capsys, "doctor", "sqlite:///pool.db", "--repair", "nowhere/new.db")
    assert "the folder of nowhere/new.db does not exist" in said


def test_messages_name_the_users_file_and_not_the_copy(monkeypatch, capsys, tmp_path):
    (tmp_path / "bad.db").write_bytes(b"not a database at all, just some bytes" * 60)
    assert "sqlite:///bad.db is not a SQLite database" in refused(monkeypatch, capsys, "doctor", "sqlite:///bad.db")


def test_redis(monkeypatch, capsys, redis_url):
    backend = RedisBackend(redis_url)
    store = open_store(redis_url, settings=Settings(), clock=FakeClock())
    store.put([make_example("e1"), make_example("e2")])
    store.close()
    assert call(monkeypatch, "doctor", redis_url) == 0
    assert "2 examples\n" in capsys.readouterr().out
    backend.damage("texts", b"noise", "e1", "s")
    assert call(monkeypatch, "doctor", redis_url) == 1
    assert "1 examples  1 values" in capsys.readouterr().out
    assert "--repair" in refused(monkeypatch, capsys, "doctor", redis_url, "--repair", "new.db")
