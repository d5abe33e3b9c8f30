"""The examples of a SQLite store, read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared_core.records import Statistics, Texts
from shared_core.store.codec import decode_row, decode_statistics, decode_texts
from shared_core.store.protocol import Row
from shared_core.store.sqlite_reading import Reader, is_sound
from shared_core.store.sqlite_salvage import Rows

TEXTS_PER_ROW: Final = 50  # the limit of examples in one prompt


class ExampleTable:
    """The examples of a database.

    Args:
        reader: Reads the database, around what is damaged.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def scopes(self) -> Sequence[str]:
        """See `Store.scopes`."""
        rows = self._reader.read("SELECT DISTINCT scope FROM examples ORDER BY scope")
        if rows is not None:
            return self._reader.names(rows)
        return sorted({scope for rows in self._around("scope") for scope in self._reader.names(rows)})

    def count(self, scope: str) -> int:
        """See `Store.count`."""
        rows = self._reader.read("SELECT COUNT(*) FROM examples WHERE scope = ?", (scope,))
        return int(rows[0][0]) if rows else sum(map(len, self._around("1", "scope = ?", scope)))

    def oldest(self, scope: str, n: int) -> Sequence[str]:
        """See `Store.oldest`; none if their index is damaged."""
        sql = "SELECT id FROM examples WHERE scope = ? ORDER BY created_at, id LIMIT ?"
        return self._reader.names(self._reader.read(sql, (scope, max(0, n))) or [])

    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """All texts come in one row, because sqlite3 releases the GIL at every row that it fetches."""
        found: dict[str, Texts] = {}
        for start in range(0, len(ids), TEXTS_PER_ROW):
            chunk = ids[start : start + TEXTS_PER_ROW]
            each = (f"(SELECT texts FROM examples WHERE scope = ?1 AND id = ?{i + 2})" for i in range(len(chunk)))  # noqa: S608 - only marks
            rows = self._reader.read(f"SELECT {', '.join(each)}", (scope, *chunk))
            parts = zip(chunk, rows[0], strict=True) if rows else self._listed("id, texts", scope, chunk)
            for example_id, data in parts:
                texts = None if data is None else self._reader.decoded(decode_texts, scope, example_id, data)
                if texts is not None:
                    found[example_id] = texts
        return found

    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """See `Store.rows`."""
        return self._decoded(scope, self._listed("id, entry, statistics, vector", scope, ids))

    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """See `Store.statistics`."""
        rows = self._listed("id, statistics", scope, ids)
        read = ((example_id, self._reader.decoded(decode_statistics, data)) for example_id, data in rows)
        return {example_id: learned for example_id, learned in read if learned is not None}

    def scan(self, scope: str, batch: int) -> Iterator[Sequence[Row]]:
        """Each batch is one read, so a slow consumer does not hold a transaction open.

        From the first damaged page or id on, rows are read by their row ids instead.
        """
        page = (
            "SELECT created_at, id, entry, statistics, vector FROM examples "
            "WHERE scope = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?"
        )
        after: tuple[Any, ...] = (-math.inf, "")
        while is_sound(rows := self._reader.read(page, (scope, *after, batch))):
            if not rows:
                return
            yield self._decoded(scope, (row[1:] for row in rows))
            after = rows[-1][:2]
        columns, condition = "id, entry, statistics, vector", "scope = ? AND (created_at, id) > (?, ?)"
        for rest in self._around(columns, condition, scope, *after):
            yield self._decoded(scope, rest)

    def _listed(self, columns: str, scope: str, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        select = f"SELECT {columns} FROM examples WHERE scope = ? AND"  # noqa: S608 - constants
        return self._reader.listed(select, (scope,), ids)

    def _around(self, columns: str, condition: str = "1", *parameters: object) -> Iterator[Rows]:
        return self._reader.around(columns, "examples", condition, parameters)

    def _decoded(self, scope: str, rows: Any) -> list[Row]:
        read = (self._reader.decoded(decode_row, scope, *parts) for parts in rows)
        return [row for row in read if row is not None]
