"""The stores under test, each opened the same way, and a way behind each one's back to damage what it holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.store.sqlite import SqliteStore
from shared_core.values import Clock

Part: TypeAlias = Literal[
    "entry", "statistics", "vector", "texts", "exact", "decision", "feedback", "checkpoint", "weights", "waiting"
]


class Backend(Protocol):
    """Where the data of one test lives."""

    def open(self, settings: Settings, clock: Clock, feed_length: int) -> Store:
        """A store on this data. Tests close it."""

    def peek(self, part: Part, key: str, scope: str = "") -> bytes:
        """The stored bytes of a part: `key` is an example's id (with its scope), an exact key, a decision's id, a
        feedback's offset; the head of the router's checkpoint and its first chunk (the weights) need none."""

    def damage(self, part: Part, data: bytes, key: str = "", scope: str = "") -> None:
        """Write `data` where `peek` would read."""

    def damage_change(self, seq: int, part: str, data: bytes) -> None:
        """Write `data` as the kind, scope or id of one step of the change feed."""

    def age_lease(self, name: str, seconds: float) -> None:
        """Let a lease end `seconds` earlier: stores use a clock of their own."""


AGE_LEASE = "UPDATE leases SET expires_at = expires_at - ? WHERE name = ?"


class MemoryBackend:
    def open(self, settings: Settings, clock: Clock, feed_length: int) -> Store:
        self.opened = SqliteStore(None, settings=settings, clock=clock, feed_length=feed_length)
        return self.opened

    def age_lease(self, name: str, seconds: float) -> None:
        with self.opened._database.writing() as connection:
            assert connection.execute(AGE_LEASE, (seconds, name)).rowcount == 1

    def peek(self, part: Part, key: str, scope: str = "") -> bytes:
        raise NotImplementedError("memory cannot be reached from outside")

    def damage(self, part: Part, data: bytes, key: str = "", scope: str = "") -> None:
        raise NotImplementedError("memory cannot be reached from outside")

    def damage_change(self, seq: int, part: str, data: bytes) -> None:
        raise NotImplementedError("memory cannot be reached from outside")


class SqliteBackend:
    PLACES: dict[Part, tuple[str, str, str]] = {
        "entry": ("examples", "entry", "id = :key AND scope = :scope"),
        "statistics": ("examples", "statistics", "id = :key AND scope = :scope"),
        "vector": ("examples", "vector", "id = :key AND scope = :scope"),
        "texts": ("examples", "texts", "id = :key AND scope = :scope"),
        "exact": ("exact", "answer", "key = :key"),
        "decision": ("decisions", "record", "id = :key"),
        "feedback": ("feedback", "judgement", "offset = CAST(:key AS INTEGER)"),
        "checkpoint": ("parts", "head", "name = 'router'"),
        "weights": ("chunks", "data", "number = 0"),
        "waiting": ("waiting", "answer", "id = :key"),
    }

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, settings: Settings, clock: Clock, feed_length: int) -> Store:
        return SqliteStore(self.path, settings=settings, clock=clock, feed_length=feed_length)

    def peek(self, part: Part, key: str = "", scope: str = "") -> bytes:
        table, column, where = self.PLACES[part]
        connection = sqlite3.connect(self.path)
        with connection:
            row = connection.execute(
                f"SELECT {column} FROM {table} WHERE {where}", {"key": key, "scope": scope}
            ).fetchone()
        connection.close()
        assert isinstance(row[0], bytes)
        return row[0]

    def damage(self, part: Part, data: bytes, key: str = "", scope: str = "") -> None:
        table, column, where = self.PLACES[part]
        connection = sqlite3.connect(self.path)
        with connection:
            done = connection.execute(
                f"UPDATE {table} SET {column} = :data WHERE {where}", {"data": data, "key": key, "scope": scope}
            )
        connection.close()
        assert done.rowcount == 1

    def damage_change(self, seq: int, part: str, data: bytes) -> None:
        connection = sqlite3.connect(self.path)
        with connection:
            done = connection.execute(f"UPDATE changes SET {part} = CAST(? AS TEXT) WHERE seq = ?", (data, seq))
        connection.close()
        assert done.rowcount == 1

    def age_lease(self, name: str, seconds: float) -> None:
        connection = sqlite3.connect(self.path)
        with connection:
            done = connection.execute(AGE_LEASE, (seconds, name))
        connection.close()
        assert done.rowcount == 1
