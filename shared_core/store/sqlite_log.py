"""The change feed and the feedback log of a SQLite store, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_core.errors import FeedWasTrimmed
from shared_core.records import Feedback
from shared_core.store.codec import decode_change, decode_feedback, decode_place
from shared_core.store.database import Database
from shared_core.store.protocol import Change, Rating
from shared_core.store.sqlite_reading import Reader
from shared_core.store.sqlite_salvage import Rows


class LogTables:
    """The feed and the log of a database.

    Args:
        database: Holds them.
        reader: Reads around what is damaged.
    """

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader
        self._generation = 0

    def position(self) -> int:
        """See `Store.position`; where the end of the feed is damaged, the last number that was given."""
        if rows := self._reader.read("SELECT COALESCE(MAX(seq), 0) FROM changes"):
            return int(rows[0][0])
        given = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
        return max((decode_place(seq) for (seq,) in given), default=0)

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """Sequence numbers have no gaps, so a gap after `after` means that the feed was trimmed.

        A position beyond the feed's end counts as trimmed, too, and so does a file that was restored or replaced. After
        damage the feed counts as trimmed once: its new end is where the reader goes on.
        """
        self._database.follow()
        if self._database.generation != self._generation:
            self._generation = self._database.generation
            raise FeedWasTrimmed(f"{self._database.label} was deleted or replaced; reload the scope")
        rows: Rows = []
        while rows := self._page(after, limit):
            if rows[0][0] != after + 1:
                break
            read = (self._reader.decoded(decode_change, *row) for row in rows)
            if found := [change for change in read if change is not None]:
                return found
            after = rows[-1][0]
        if rows or after > self.position():
            raise FeedWasTrimmed(f"{self._database.label} no longer holds every change after {after}; reload the scope")
        return []

    def feedback(self, after: int, limit: int) -> Sequence[tuple[int, Feedback]]:
        """Only an empty result means the end of the log."""
        while rows := self._after(after, limit):
            read = ((offset, self._reader.decoded(decode_feedback, data)) for offset, data in rows)
            if found := [(offset, feedback) for offset, feedback in read if feedback is not None]:
                return found
            after = rows[-1][0]
        return []

    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        """See `Store.ratings`."""
        found: dict[str, list[Rating]] = {}
        select = "SELECT judgement, offset <= COALESCE((SELECT offset FROM progress), 0) FROM feedback WHERE"
        rows = self._reader.listed(select, (), decision_ids, "decision_id", "ORDER BY feedback.offset")
        for data, is_learned in rows:
            feedback = self._reader.decoded(decode_feedback, data)
            if feedback is not None and feedback.decision_id in decision_ids:
                found.setdefault(feedback.decision_id, []).append(Rating(feedback, bool(is_learned)))
        return found

    def _page(self, after: int, limit: int) -> Rows:
        # read as blobs, so that damage in a text is an unreadable change
        sql = (
            "SELECT seq, CAST(kind AS BLOB), CAST(scope AS BLOB), CAST(id AS BLOB) FROM changes "
            "WHERE seq > ? ORDER BY seq LIMIT ?"
        )

        rows = self._reader.read(sql, (after, limit))
        if rows is None and after < self.position():
            raise FeedWasTrimmed(f"{self._database.label} is damaged after change {after}; reload the scope")
        return rows or []

    def _after(self, offset: int, limit: int) -> Rows:
        sql = "SELECT offset, judgement FROM feedback WHERE offset > ? ORDER BY offset LIMIT ?"
        rows = self._reader.read(sql, (offset, limit))
        if rows is not None:
            return rows
        found: Rows = []
        for some in self._reader.around("offset, judgement", "feedback", "offset > ?", (offset,)):
            found += some
            if len(found) >= limit:
                break
        return found[:limit]
