"""A database that is deleted or replaced while it is open is noticed; one that cannot be written is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_core.errors import FeedWasTrimmed
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from tests.stores.makers import make_decision, make_example, make_feedback


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{path}", settings=Settings())
    opened.record(make_decision(), make_example("old"))
    yield opened
    opened.close()


def examples_in(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT id FROM examples ORDER BY id")]
    connection.close()
    return found


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("pattern", ["pool.db", "pool.db*"])
def test_a_deleted_file_is_opened_again_and_what_follows_is_kept(
    store: Store, path: Path, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    for file in path.parent.glob(pattern):
        file.unlink()
    store.write([])
    store.record(make_decision("d2"), make_example("new"))
    store.append_feedback(make_feedback("d2"))
    assert examples_in(path) == ["new"]
    assert store.oldest("s", 5) == ["new"]
    assert path.stat().st_mode & 0o777 == 0o600
    [said] = messages(caplog)
    assert "was deleted or replaced" in said


def test_a_file_put_in_its_place_is_used_and_the_old_log_is_not_replayed_into_it(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = path.with_name("backup.db")
    other = open_store(f"sqlite:///{backup}", settings=Settings())
    other.record(example=make_example("restored"))
    other.close()
    for number in range(20):
        store.record(example=make_example(f"e{number}"))
    assert path.with_name("pool.db-wal").stat().st_size > 0
    os.replace(backup, path)
    assert store.oldest("s", 5) == ["restored"]
    store.record(example=make_example("new"))
    store.close()
    assert examples_in(path) == ["new", "restored"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert len(messages(caplog)) == 1


def test_two_that_have_it_open_find_the_same_new_file(store: Store, path: Path) -> None:
    neighbour = open_store(f"sqlite:///{path}", settings=Settings())
    neighbour.count("s")
    path.unlink()
    store.record(example=make_example("ours"))
    neighbour.record(example=make_example("theirs"))
    store.record(example=make_example("ours too"))
    neighbour.close()
    assert examples_in(path) == ["ours", "ours too", "theirs"]
    assert store.oldest("s", 5) == ["ours", "ours too", "theirs"]


def test_replicas_reload(store: Store, path: Path) -> None:
    at = store.position()
    path.unlink()
    other = open_store(f"sqlite:///{path}", settings=Settings())
    for number in range(5):
        other.record(example=make_example(f"e{number}"))  # more changes than the old file had
    other.close()
    with pytest.raises(FeedWasTrimmed, match="replaced"):
        store.changes(at)
    assert len(store.changes(0)) == 5


def test_a_folder_that_is_away_for_a_while_is_a_passing_failure(store: Store, path: Path) -> None:
    away = path.parent.with_name("away")
    path.parent.rename(away)
    with pytest.raises(OSError, match="does not exist"):
        store.record(example=make_example("lost"))
    away.rename(path.parent)
    store.record(example=make_example("new"))
    assert examples_in(path) == ["new", "old"]


UNPRIVILEGED = """
import os, sys
from shared_core.errors import StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store import open_store
import shared_core.store.sqlite
if os.getuid() == 0:
    os.setuid(65534)
try:
    open_store(f"sqlite:///{sys.argv[1]}", settings=Settings())
except StoreIsUnusable as error:
    print(error)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="iccache-read-only-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
def test_a_file_or_folder_that_this_user_may_not_write_is_refused(
    public_folder: Path, file_mode: int, folder_mode: int
) -> None:
    path = public_folder / "pool.db"
    open_store(f"sqlite:///{path}", settings=Settings()).close()
    path.chmod(file_mode)
    public_folder.chmod(folder_mode)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "writable" in done.stdout
    assert str(path) in done.stdout
