"""Damages one stored thing at random, reproducibly: a column of a SQLite file, or a key of a Redis pool."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import redis

NUMBERS = [-1, 0, 1, 2**31, 2**53, 2**63 - 1, -(2**63), float("inf"), -1e300, 1e300, 0.5, "abc", "", "nan", b"\xff\xfe"]
WORDS = [
    b"-1",
    b"0",
    b"2",
    b"NaN",
    b"1e999",
    b"1e300",
    b"-1e300",
    b"9223372036854775808",
    b"0.5",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
]


def wrecked(rng: random.Random, value: bytes, others: list[bytes]) -> bytes:
    """Another value in the place of `value`."""
    how = rng.choice(["flip", "cut", "empty", "noise", "number", "number", "swap", "half"])
    spot = rng.randrange(len(value) or 1)
    if how == "flip":
        return value[:spot] + bytes([rng.randrange(256)]) + value[spot + 1 :]
    if how == "cut":
        return value[:spot]
    if how == "noise":
        return rng.randbytes(rng.choice([1, 8, 100]))
    if how == "number" and (found := list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", value))):
        number = rng.choice(found)
        return value[: number.start()] + rng.choice(WORDS) + value[number.end() :]
    if how == "swap" and others:
        return rng.choice(others)
    if how == "half":
        return value[:spot] + b"\xed\xa0\x80" + value[spot:]
    return b""


class FileWrecks:
    """A SQLite store that is damaged and restored."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self._path, self._kept = path, path.with_suffix(".kept")

    def keep(self) -> None:
        shutil.copy(self._path, self._kept)

    def restore(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self._kept, self._path)

    def damage(self, rng: random.Random) -> str:
        """Change one column of one row, or delete the row; returns what was done."""
        connection = sqlite3.connect(self._path)
        connection.text_factory = bytes
        tables = [
            name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        while True:
            table = rng.choice(sorted(tables))
            rows = [rowid for (rowid,) in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
            if not rows:
                continue
            row = rng.choice(rows)
            column = rng.choice([info[1].decode() for info in connection.execute(f"PRAGMA table_info({table})")])
            values = [value for (value,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY rowid")]
            [(value,)] = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,))
            kind = connection.execute(f"SELECT typeof({column}) FROM {table} WHERE rowid = ?", (row,)).fetchone()[0]
            try:
                with connection:
                    if rng.random() < 0.05:
                        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                        what = f"{table}: a row deleted"
                    elif isinstance(value, bytes):
                        new = wrecked(rng, value, [other for other in values if isinstance(other, bytes)])
                        cast = "CAST(? AS TEXT)" if kind == b"text" else "?"
                        connection.execute(f"UPDATE {table} SET {column} = {cast} WHERE rowid = ?", (new, row))
                        what = f"{table}.{column} = {new[:60]!r}"
                    else:
                        number = rng.choice(NUMBERS)
                        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (number, row))
                        what = f"{table}.{column} = {number!r}"
            except sqlite3.Error:
                continue  # a constraint forbids it: it cannot be damaged so
            connection.close()
            return what


class ServerWrecks:
    """A Redis pool that is damaged and restored."""

    def __init__(self, url: str, client: redis.Redis, prefix: str) -> None:
        self.url = url
        self._client, self._prefix = client, prefix
        self._kept: dict[bytes, tuple[bytes, int]] = {}

    def _keys(self) -> list[bytes]:
        return sorted(self._client.scan_iter(match=re.sub(r"([\[\]{}?*])", r"\\\1", self._prefix) + "*", count=1000))

    def keep(self) -> None:
        self._kept = {key: (self._client.dump(key), max(0, self._client.pttl(key))) for key in self._keys()}

    def restore(self) -> None:
        keys = self._keys()
        if keys:
            self._client.delete(*keys)
        for key, (data, ttl) in self._kept.items():
            self._client.restore(key, ttl, data)

    def damage(self, rng: random.Random) -> str:
        """Change one part of one key, delete it, or put another type there; returns what was done."""
        keys = [key for key in self._keys() if b":probe:" not in key]
        kinds = sorted({key[len(self._prefix) :].partition(b":")[0] for key in keys})
        kind = rng.choice(kinds)
        key = rng.choice([key for key in keys if key[len(self._prefix) :].partition(b":")[0] == kind])
        name = key[len(self._prefix) :].decode("utf-8", "replace")
        client, chance = self._client, rng.random()
        if chance < 0.06:
            client.delete(key)
            return f"{name} deleted"
        if chance < 0.12:
            kind = client.type(key)
            client.delete(key)
            client.hset(key, "a", "b") if kind != b"hash" else client.set(key, "text")
            return f"{name} of another type"
        change: Any = {b"string": self._string, b"hash": self._hash, b"zset": self._zset, b"set": self._set}.get(
            client.type(key), self._stream
        )
        return f"{name}: {change(rng, key)}"

    def _string(self, rng: random.Random, key: bytes) -> str:
        kind = key[len(self._prefix) :].partition(b":")[0]
        others = [
            self._client.get(k)
            for k in self._keys()
            if k.startswith(self._prefix.encode() + kind + b":") and self._client.type(k) == b"string"
        ]
        new = wrecked(rng, self._client.get(key), others)
        self._client.set(key, new, keepttl=True)
        return repr(new[:60])

    def _hash(self, rng: random.Random, key: bytes) -> str:
        held = self._client.hgetall(key)
        field = rng.choice(sorted(held))
        if rng.random() < 0.1:
            self._client.hdel(key, field)
            return f"{field!r} deleted"
        kind = key.rpartition(b":")[0]
        others = [
            value
            for k in self._keys()
            if k.rpartition(b":")[0] == kind and self._client.type(k) == b"hash"
            for value in self._client.hvals(k)
        ]
        new = wrecked(rng, held[field], others)
        self._client.hset(key, field, new)
        return f"{field!r} = {new[:60]!r}"

    def _zset(self, rng: random.Random, key: bytes) -> str:
        member = rng.choice(sorted(self._client.zrange(key, 0, -1)))
        if rng.random() < 0.5:
            score = rng.choice([-1.0, 0.0, 1e300, float("inf"), float("-inf")])
            self._client.zadd(key, {member: score})
            return f"{member!r} at {score}"
        new = wrecked(rng, member, [])
        self._client.zadd(key, {new: 1.0})
        return f"{new!r} added"

    def _set(self, rng: random.Random, key: bytes) -> str:
        member = rng.choice(sorted(self._client.smembers(key)))
        new = wrecked(rng, member, [])
        self._client.sadd(key, new)
        return f"{new!r} added"

    def _stream(self, rng: random.Random, key: bytes) -> str:
        entries = self._client.xrange(key)
        if rng.random() < 0.3 or not entries:
            stream_id = rng.choice(["*", f"{2**53}-0", f"{2**63}-1", f"{2**64 - 1}-{2**64 - 1}"])
            self._client.xadd(key, {"hello": "world"}, id=stream_id)
            return f"foreign entry {stream_id}"
        entry_id, fields = rng.choice(entries)
        field = rng.choice(sorted(fields))
        new = wrecked(rng, fields[field], [other.get(field, b"") for _, other in entries])
        self._client.delete(key)
        for other_id, others in entries:
            self._client.xadd(key, others | {field: new} if other_id == entry_id else others, id=other_id)
        return f"{entry_id!r} {field!r} = {new[:60]!r}"
