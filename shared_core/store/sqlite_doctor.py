"""Examines the file of a SQLite store, and saves what can be read of it into a new one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared_core.errors import ConfigurationError
from shared_core.records import PLACES, Statistics
from shared_core.store import codec, parts
from shared_core.store.database import Database
from shared_core.store.fields import Unreadable
from shared_core.store.protocol import PartProgress
from shared_core.store.sqlite_reading import Reader

BATCH: Final = 500  # rows in one transaction
_PAGES: Final = slice(28, 32)  # where the header has the number of pages
_PAGE_SIZE: Final = slice(16, 18)
_LARGEST_PAGE: Final = 65_536  # which the header writes as 1

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One table of a store.

    Attributes:
        name: What its rows are, for people.
        table: Its name.
        columns: Its columns.
        mended: The row as it is to be stored; raises `Unreadable` if it cannot be used.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    mended: Callable[[Row], Row]


@dataclass(frozen=True, slots=True)
class Finding:
    """How much of one kind can be read. `lost` counts values that cannot, and in damaged pages ranges of row ids."""

    name: str
    readable: int
    lost: int


def examine(path: Path, repaired: Path | None = None) -> list[Finding]:
    """Read everything that a store's file holds; the file itself stays as it is.

    Args:
        path: The file. Nobody should write to it meanwhile.
        repaired: A new file for what can be read, with mode 0600. Its folder also takes a copy of `path` meanwhile.

    Raises:
        ConfigurationError: `repaired` exists.
        StoreIsUnusable: Nothing can be read, or the new file cannot be written.
    """
    if repaired is not None and repaired.exists():
        raise ConfigurationError(f"{repaired} exists; name a new file, or delete it first")
    with tempfile.TemporaryDirectory(prefix="iccache-doctor-", dir=repaired and repaired.parent) as folder:
        source = Database(_copied(path, Path(folder)), shown=path)
        try:
            if repaired is None:
                return [_examined(kind, source, None) for kind in KINDS]
            new = Path(folder) / "new.db"
            target = Database(new, shown=repaired)
            findings = [_examined(kind, source, target) for kind in KINDS]
            target.close()
            new.rename(repaired)  # from here on it is complete
            return findings
        finally:
            source.close()


def _copied(path: Path, folder: Path) -> Path:
    """A copy of the database and its log, as long as its header says: SQLite reads nothing of a file that is shorter."""
    copy = folder / "copy.db"
    shutil.copyfile(path, copy)
    log = path.with_name(path.name + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    with copy.open("r+b") as file:
        header = file.read(100)
        size = int.from_bytes(header[_PAGE_SIZE], "big")
        length = int.from_bytes(header[_PAGES], "big") * (_LARGEST_PAGE if size == 1 else size)
        if copy.stat().st_size < length < 2 * copy.stat().st_size + 2**30:
            file.truncate(length)
    return copy


def _examined(kind: Kind, source: Database, target: Database | None) -> Finding:
    reader = Reader(source, quiet=True)
    readable = 0
    for rows in reader.around(", ".join(kind.columns), kind.table, "1", ()):
        sound = [row for row in (reader.decoded(kind.mended, row) for row in rows) if row is not None]
        readable += len(sound)
        if target is not None:
            _insert(target, kind, sound)
    return Finding(kind.name, readable, reader.unreadable)


def _insert(target: Database, kind: Kind, rows: Sequence[Row]) -> None:
    names, marks = ", ".join(kind.columns), ", ".join("?" * len(kind.columns))
    with target.writing() as connection:
        connection.executemany(f"INSERT OR IGNORE INTO {kind.table} ({names}) VALUES ({marks})", rows)  # noqa: S608 - constants


# what a row of each table must be -------------------------------------------------------------------------------------


def _example(row: Row) -> Row:
    """An example whose statistics are lost starts with new ones."""
    scope, name, created_at, exact_key, entry, statistics, vector, texts = row
    try:
        codec.decode_statistics(statistics)
    except Unreadable:
        statistics = codec.encode_statistics(Statistics())
    codec.decode_row(_text(scope), _text(name), entry, statistics, vector)
    codec.decode_texts(scope, name, texts)
    return scope, name, _number(created_at), _text(exact_key), entry, statistics, vector, texts


def _exact(row: Row) -> Row:
    key, _, created_at, answer = row
    found = codec.decode_exact(_text(key), answer)
    return key, found.scope, _number(created_at), answer


def _decision(row: Row) -> Row:
    name, _, created_at, record = row
    found = codec.decode_decision(_text(name), record)
    return name, found.scope, _number(created_at), record


def _waiting(row: Row) -> Row:
    name, scope, created_at, _, answer = row
    codec.decode_waiting(_text(name), _text(scope).encode("utf-8", "surrogatepass"), answer)
    return name, scope, _number(created_at), len(answer), answer


def _feedback(row: Row) -> Row:
    offset, _, _, _, judgement = row
    found = codec.decode_feedback(judgement)
    return offset, found.decision_id, found.rater, found.at, judgement


def _progress(row: Row) -> Row:
    if row[0] != 1 or not all(type(number) is int and 0 <= number < PLACES for number in row[1:]):
        raise Unreadable("no version and offset")
    return row


def _part(row: Row) -> Row:
    if parts.progress_of(row[1]) == PartProgress():
        raise Unreadable("no head of a part")
    return _text(row[0]), row[1]


def _chunk(row: Row) -> Row:
    if type(row[1]) is not int or not isinstance(row[2], bytes):
        raise Unreadable("no piece of a part")
    return _text(row[0]), row[1], row[2]


def _round(row: Row) -> Row:
    parts.decode_round(row[1])
    return row


def _claim(row: Row) -> Row:
    return _text(row[0]), _text(row[1])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable("a name that is no text")
    return value


def _number(value: object) -> float:
    if not isinstance(value, float):
        raise Unreadable("a time that is no number")
    return value


KINDS: Final = (
    Kind(
        "examples",
        "examples",
        ("scope", "id", "created_at", "exact_key", "entry", "statistics", "vector", "texts"),
        _example,
    ),
    Kind("exact answers", "exact", ("key", "scope", "created_at", "answer"), _exact),
    Kind("decisions", "decisions", ("id", "scope", "created_at", "record"), _decision),
    Kind("waiting answers", "waiting", ("id", "scope", "created_at", "size", "answer"), _waiting),
    Kind("ratings", "feedback", ("offset", "decision_id", "rater", "at", "judgement"), _feedback),
    Kind("progress of learning", "progress", ("one", "version", "offset"), _progress),
    Kind("learned parts", "parts", ("name", "head"), _part),
    Kind("pieces of learned parts", "chunks", ("key", "number", "data"), _chunk),
    Kind("reports of rounds", "rounds", ("place", "report"), _round),
    Kind("facts about the pool", "claims", ("name", "value"), _claim),
)
