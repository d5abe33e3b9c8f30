"""What only the SQLite store promises: its file, its schema, other processes, a full disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared_core.errors import ConfigurationError, StoreIsAway, StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store import database, open_store
from shared_core.store.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.stores.conftest import DECISION_TTL, EXACT_TTL
from tests.stores.makers import make_checkpoint, make_decision, make_exact, make_example, make_feedback, publish

TIMEOUT = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "iccache.db"


@pytest.fixture
def store(path: Path, settings: Settings, clock: FakeClock) -> SqliteStore:
    return SqliteStore(path, settings=settings, clock=clock, feed_length=50)


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Run one statement on a separate connection."""
    connection = sqlite3.connect(path)
    with connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


# the address ----------------------------------------------------------------------------------------------------------


def test_urls_name_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.chdir(tmp_path)
    for url, file in (
        ("sqlite:///relative.db", tmp_path / "relative.db"),
        (f"sqlite:///{tmp_path}/absolute.db", tmp_path / "absolute.db"),
        ("sqlite:///odd name#%41.db", tmp_path / "odd name#%41.db"),
    ):
        store = open_store(url, settings=settings)
        store.record(example=make_example())
        assert store.label == url
        assert file.is_file()
        store.close()
    memory = open_store("memory://", settings=settings)
    memory.record(example=make_example())
    memory.close()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["absolute.db", "odd name#%41.db", "relative.db"]


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "iccache.db", "", "sqlite:/x.db"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url: str, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite:///.*redis://.*memory://") as caught:
        open_store(url, settings=settings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x.db"])
def test_a_url_without_a_file_is_refused(url: str, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="relative.db"):
        open_store(url, settings=settings)


def test_importing_the_store_opens_nothing_and_needs_no_redis() -> None:
    code = "import sys, shared_core.store; sys.exit('redis' in sys.modules)"
    assert run_python(code).returncode == 0


# the file -------------------------------------------------------------------------------------------------------------


def modes(path: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


def test_files_are_private(path: Path, store: SqliteStore) -> None:
    store.record(example=make_example())
    assert modes(path) == {"iccache.db": 0o600, "iccache.db-wal": 0o600, "iccache.db-shm": 0o600}


def test_a_file_that_others_may_read_is_made_private(path: Path, settings: Settings) -> None:
    path.touch(0o644)
    path.chmod(0o644)
    store = SqliteStore(path, settings=settings)
    store.record(example=make_example())
    assert set(modes(path).values()) == {0o600}
    store.close()


def unusable(path: Path, settings: Settings, why: str) -> None:
    before = (path.read_bytes(), path.stat().st_mode) if path.is_file() else None
    with pytest.raises(StoreIsUnusable, match=why) as caught:
        SqliteStore(path, settings=settings)
    assert str(path) in str(caught.value)
    assert ((path.read_bytes(), path.stat().st_mode) if path.is_file() else None) == before


def test_a_missing_folder_is_not_made(tmp_path: Path, settings: Settings) -> None:
    unusable(tmp_path / "none" / "iccache.db", settings, "does not exist; create it")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_database_is_refused_unchanged(path: Path, settings: Settings) -> None:
    path.write_bytes(b"precious notes " * 300)
    path.chmod(0o644)
    unusable(path, settings, "is not a SQLite database; use another path")


def test_a_folder_is_refused(tmp_path: Path, settings: Settings) -> None:
    unusable(tmp_path, settings, "cannot be opened")


def test_another_programs_database_is_left_alone(path: Path, settings: Settings) -> None:
    sql(path, "CREATE TABLE full_llm_cache (prompt TEXT)")
    unusable(path, settings, "database of another program; use another path")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path, settings: Settings) -> None:
    tmp_path.chmod(0o500)
    unusable(tmp_path / "iccache.db", settings, "cannot be created .*may write to")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody may create files")
def test_a_folder_that_takes_no_files_is_named(settings: Settings) -> None:
    unusable(Path("/proc/iccache.db"), settings, "cannot be created .*may write to")


# the schema -----------------------------------------------------------------------------------------------------------


def test_an_older_schema_is_migrated_and_keeps_its_data(
    path: Path, store: SqliteStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record(example=make_example())
    store.close()
    steps = (*database.MIGRATIONS, ("CREATE TABLE later (x)", "ALTER TABLE claims ADD COLUMN since REAL"))
    monkeypatch.setattr(database, "MIGRATIONS", steps)
    newer = SqliteStore(path, settings=settings)
    assert newer.texts("s", ["e1"]) == {"e1": make_example().texts}
    newer.close()
    assert sql(path, "PRAGMA user_version") == [(len(steps),)]
    assert sql(path, "SELECT since FROM claims") == []
    monkeypatch.undo()
    unusable(path, settings, "newer iccache .*pip install -U iccache")


def test_a_migration_that_fails_changes_nothing(
    path: Path, store: SqliteStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record(example=make_example())
    store.close()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, ("CREATE TABLE later (x)", "DROP TABLE none")))
    with pytest.raises(StoreIsUnusable, match="no such table: none"):
        SqliteStore(path, settings=settings)
    monkeypatch.undo()
    again = SqliteStore(path, settings=settings)
    assert again.count("s") == 1
    again.close()
    assert sql(path, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'later'") == [(0,)]


# bounded growth -------------------------------------------------------------------------------------------------------


def test_the_feed_is_bounded_and_numbers_go_on(path: Path, store: SqliteStore) -> None:
    store.put([make_example(f"e{number}") for number in range(600)])
    assert sql(path, "SELECT COUNT(*), MIN(seq), MAX(seq) FROM changes") == [(50, 551, 600)]
    assert [change.seq for change in store.changes(550)] == list(range(551, 601))
    store.clear()
    assert store.position() == 1200


def test_expired_rows_leave_with_later_writes(path: Path, store: SqliteStore, clock: FakeClock) -> None:
    for number in range(100):
        store.record(make_decision(f"d{number}"), None, make_exact(f"k{number}"))
    clock.advance(EXACT_TTL)
    store.exact("k1")  # a read removes nothing
    assert sql(path, "SELECT COUNT(*) FROM exact") == [(100,)]
    store.record()
    assert sql(path, "SELECT COUNT(*) FROM exact") == [(36,)]  # bounded: one write never pays for all
    store.record()
    assert sql(path, "SELECT (SELECT COUNT(*) FROM exact), (SELECT COUNT(*) FROM decisions)") == [(0, 100)]
    clock.advance(DECISION_TTL)
    store.record()
    store.record()
    assert sql(path, "SELECT COUNT(*) FROM decisions") == [(0,)]


def test_feedback_leaves_when_it_was_learned_and_its_decision_expired(
    path: Path, store: SqliteStore, clock: FakeClock
) -> None:
    for number in range(4):
        store.append_feedback(make_feedback(f"d{number}", at=clock.now + number))
    lease = store.acquire("learn", "me", 1e9)
    assert lease is not None
    assert publish(store, make_checkpoint(1, 3), (0, 0), {}, lease)
    assert sql(path, "SELECT COUNT(*) FROM feedback") == [(4,)]
    clock.advance(DECISION_TTL + 1)
    assert publish(store, make_checkpoint(2, 3), (1, 3), {}, lease)
    assert [offset for offset, _ in store.feedback(0)] == [3, 4]


# threads and processes ------------------------------------------------------------------------------------------------


class HeldClock(FakeClock):
    """Holds one thread where it asks for the time, which a write does within its transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.held: threading.Thread | None = None
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is self.held:
            self.reached.set()
            assert self.go_on.wait(TIMEOUT)
        return self.now


def test_readers_do_not_wait_for_a_writer(path: Path, settings: Settings) -> None:
    """While a transaction is open, reads answer with what was committed before it."""
    clock = HeldClock()
    store = SqliteStore(path, settings=settings, clock=clock)
    store.record(make_decision(), make_example(), make_exact("k1"))
    clock.held = threading.Thread(target=store.delete, args=("s", ["e1"]))
    clock.held.start()
    assert clock.reached.wait(TIMEOUT)
    reads: list[Callable[[], object]] = [
        lambda: store.texts("s", ["e1"]),
        lambda: store.rows("s", ["e1"]),
        lambda: store.changes(0),
        lambda: store.exact("k1"),
        lambda: store.decisions(["d1"]),
        lambda: store.count("s"),
    ]
    with ThreadPoolExecutor(8) as pool:
        try:
            found = [future.result(10) for future in [pool.submit(read) for read in reads * 4]]
        finally:
            clock.go_on.set()
    assert all(found)
    clock.held.join(TIMEOUT)
    assert store.count("s") == 0
    store.close()


def test_a_writer_that_waits_too_long_says_so_and_recovers(
    path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    store = SqliteStore(path, settings=settings)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreIsAway, match="locked; another process is writing to it; try again"):
        store.record(example=make_example())
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        SqliteStore(path, settings=settings)
    other.execute("ROLLBACK")
    other.close()
    store.record(example=make_example())
    assert store.count("s") == 1
    store.close()


WRITER = """
import sys
from pathlib import Path
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from tests.stores.makers import make_decision, make_example, make_feedback, publish
sys.stdin.readline()
store = SqliteStore(Path(sys.argv[1]), settings=Settings())
for number in range(15):
    store.record(make_decision(), make_example(f"{sys.argv[2]}-{number}"))
    store.append_feedback(make_feedback(f"d{number}"))
store.close()
"""


def test_processes_share_a_file_from_its_first_moment(path: Path, settings: Settings) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], stdin=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=TIMEOUT)
        assert writer.returncode == 0
    store = SqliteStore(path, settings=settings)
    assert store.count("s") == 60
    assert [change.seq for change in store.changes(0)] == list(range(1, 61))
    assert [offset for offset, _ in store.feedback(0)] == list(range(1, 16))
    store.close()


def test_closing_while_others_read_and_write(store: SqliteStore) -> None:
    store.put([make_example(f"e{number}") for number in range(200)])
    started = threading.Barrier(5)

    def use(write: bool) -> str:
        started.wait(10)
        try:
            while True:
                store.record(example=make_example()) if write else list(store.scan("s", 10))
        except StoreIsUnusable as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use, number % 2 == 0) for number in range(4)]
        started.wait(10)
        store.close()
        assert all("is closed; open it again" in user.result(TIMEOUT) for user in users)


FORK = """
import os, sys
from pathlib import Path
from shared_core.errors import StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from tests.stores.makers import make_example, publish
store = SqliteStore(Path(sys.argv[1]), settings=Settings())
store.record(example=make_example("before"))
child = os.fork()
if child == 0:
    refused = 0
    for use in (lambda: store.count("s"), lambda: store.record(example=make_example("lost"))):
        try:
            use()
        except StoreIsUnusable as error:
            refused += "open the store in the new process" in str(error)
    store.close()
    os._exit(0 if refused == 2 else 1)
_, status = os.waitpid(child, 0)
store.record(example=make_example("after"))
assert list(store.oldest("s", 9)) == ["after", "before"], store.oldest("s", 9)
store.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_error_names_the_remedy(path: Path) -> None:
    done = run_python(FORK, path)
    assert done.returncode == 0, done.stderr


# a full disk ----------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from pathlib import Path
from shared_core.errors import StoreIsAway
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from tests.stores.makers import make_example, publish
store = SqliteStore(Path(sys.argv[1]), settings=Settings())
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit[1]))
try:
    for number in range(10_000):
        store.record(example=make_example(f"e{number}", answer="x" * 3000))
        print(f"e{number}", flush=True)
except StoreIsAway as error:
    print("stopped:", error, file=sys.stderr)
assert store.count("s") == number, (store.count("s"), number)  # reads go on
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
store.record(example=make_example("space again"))
print("space again")
store.close()
"""


def test_a_full_disk_fails_the_write_and_loses_nothing_acknowledged(path: Path, settings: Settings) -> None:
    done = run_python(FULL_DISK, path)
    assert done.returncode == 0, done.stderr
    assert "stopped:" in done.stderr
    acknowledged = done.stdout.split("\n")[:-1]
    assert len(acknowledged) > 10
    store = SqliteStore(path, settings=settings)
    assert set(store.texts("s", acknowledged)) == set(acknowledged)
    assert store.count("s") == len(acknowledged)
    assert len(store.changes(0)) == len(acknowledged)
    store.close()
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
