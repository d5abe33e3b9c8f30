"""`?mode=ro` serves from a file that is not written, also where it cannot be."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared_core.engine import Engine
from shared_core.errors import StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.sqlite import SqliteStore
from shared_core.values import Arm, Message, Outcome, Request
from tests.embedding import Words
from tests.stores.makers import make_decision, make_exact, make_example, make_feedback

REQUEST = Request((Message("user", "heat the bath"),), "heat the bath", scope="s", task="t")
FIRST = Path(__file__).with_name("first_schema.sqlite")


def engine_on(url: str, **more: object) -> Engine:
    arms = [Arm("small", 0.1), Arm("large", 1.0)]
    settings = Settings(relevance_quantile=0.0, explore=1.0, deadline=10.0)
    return Engine(store=url, arms=arms, reference="large", embedder=Words(), settings=settings, **more)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "folder" / "pool.db"
    made.parent.mkdir()
    engine = engine_on(f"sqlite:///{made}", background=False)
    engine.add_examples([("heat the bath", "bath set 40"), ("heat the hall", "hall set 20")], scope="s", task="t")
    engine.observe(REQUEST, Outcome("bath set 40", payload=b'"bath set 40"', writer="large"), admit=False)
    engine.flush()
    engine.close()
    yield made
    made.parent.chmod(0o700)


def everything_is_read(url: str) -> None:
    store = open_store(url, settings=Settings())
    assert store.is_read_only
    assert store.label == url
    assert store.count("s") == 2
    assert store.exact(REQUEST.exact_key).payload == b'"bath set 40"'
    assert store.claim("embedder", "another") == Words.tag
    assert store.claim("unknown", "value") == "value"
    store.close()


def test_it_serves_and_writes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = path.read_bytes()
    engine = engine_on(f"sqlite:///{path}?mode=ro")
    engine.warm("s")
    for number in range(20):
        decision = engine.decide(REQUEST)
        assert not decision.fallback and decision.given
        assert engine.lookup(REQUEST).answer.payload == b'"bath set 40"'
        engine.submit_record(decision, Outcome("bath set 40", writer="large"))
        engine.submit_feedback(decision.id, 1.0)
        engine.observe(REQUEST, Outcome(f"another {number}", payload=b'"another"', writer="large"), admit=True)
    assert engine.flush(5)
    engine.close()
    assert path.read_bytes() == before
    said = [
        record for record in caplog.records if record.name.startswith("iccache") and "reading only" in record.message
    ]
    assert len(said) == 1
    assert not [record for record in caplog.records if "lose" in record.message or "failed" in record.message]
    assert not any(name.startswith("writer.") for name in engine.counters.snapshot())


def test_what_must_be_stored_raises(path: Path) -> None:
    engine = engine_on(f"sqlite:///{path}?mode=ro", background=False)
    decision = engine.decide(REQUEST)
    for write in (
        lambda: engine.record(decision, Outcome("x")),
        lambda: engine.feedback(decision.id, 1.0),
        lambda: engine.add_examples([("a", "b")], scope="s", task="t"),
        lambda: engine.clear(),
    ):
        with pytest.raises(StoreIsUnusable, match=r"leave \?mode=ro out to write"):
            write()
    engine.close()
    store = open_store(f"sqlite:///{path}?mode=ro", settings=Settings())
    for write in (
        lambda: store.record(make_decision(), make_example(), make_exact()),
        lambda: store.append_feedback(make_feedback()),
        lambda: store.delete("s", ["e1"]),
        lambda: store.acquire("learner", "me", 1),
    ):
        with pytest.raises(StoreIsUnusable, match="reading only"):
            write()
    store.close()


def test_it_follows_a_process_that_writes(path: Path) -> None:
    writer = open_store(f"sqlite:///{path}", settings=Settings())
    reader = open_store(f"sqlite:///{path}?mode=ro", settings=Settings())
    position = reader.position()
    writer.put([make_example("e9")])
    assert [change.id for change in reader.changes(position)] == ["e9"]
    assert reader.count("s") == 3
    reader.close()
    writer.close()


def as_another_user(path: Path, check: Callable[[], None]) -> None:
    """Check as a user who may read what others may: not as root, who may write everywhere."""
    if os.geteuid() != 0:
        check()
        return
    for folder in path.parent.parents:
        if tempfile.gettempdir() in map(str, folder.parents) and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65_534)
            check()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("with_log", [False, True])
def test_a_folder_that_may_not_be_written(path: Path, with_log: bool) -> None:
    """Read by a user who may write neither the file nor its folder. A log needs its index, which is there."""
    writer = open_store(f"sqlite:///{path}", settings=Settings()) if with_log else None
    if writer:
        writer.put([make_example("e9")])
        writer.delete("s", ["e9"])
    for file in path.parent.iterdir():
        file.chmod(0o444)
    path.parent.chmod(0o555)
    as_another_user(path, lambda: everything_is_read(f"sqlite:///{path}?mode=ro"))
    if writer:
        writer.close()


def test_what_cannot_be_read_so_is_named(path: Path, tmp_path: Path) -> None:
    def refused(name: Path) -> str:
        with pytest.raises(StoreIsUnusable) as raised:
            open_store(f"sqlite:///{name}?mode=ro", settings=Settings())
        return str(raised.value)

    assert "does not exist" in refused(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    shutil.copy(FIRST, tmp_path / "old.db")
    before = (tmp_path / "old.db").read_bytes()
    assert "older iccache" in refused(tmp_path / "old.db")
    assert (tmp_path / "old.db").read_bytes() == before
    (tmp_path / "notes.txt").write_text("precious " * 1000)
    assert "not a SQLite database" in refused(tmp_path / "notes.txt")
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE cache (a)")
    connection.close()
    assert "another program" in refused(tmp_path / "other.db")


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_file_that_may_not_be_written_names_the_way_out(path: Path, mode: int) -> None:
    def check() -> None:
        with pytest.raises(StoreIsUnusable, match=r"add \?mode=ro"):
            SqliteStore(path, settings=Settings())

    path.chmod(mode if os.geteuid() == 0 else 0o444)
    path.parent.chmod(0o555)
    as_another_user(path, check)
