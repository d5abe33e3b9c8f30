"""The Redis store, for pools that several processes or machines share. Redis 6.2 or newer, no modules.

Every write is one Lua script (`redis_scripts` lists the keys), every read one command or script. The client repeats a
call whose connection broke, so a call may be applied twice. Then `put`, `claim`, `acquire` and `release` leave the same
state, the ratings of a `write` and `publish` recognise their first attempt by a token, and `delete`, `clear`
and `forget_exact` may report less than they deleted. A call that raises may or may not have been applied.

Durability depends on the server: with ``appendfsync always`` no acknowledged write is lost, with ``everysec`` up to one
second of writes may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

from typing_extensions import override

from shared_core.errors import FeedWasTrimmed
from shared_core.records import (
    PLACES,
    Checkpoint,
    DecisionRecord,
    ExactAnswer,
    Example,
    Feedback,
    LearnRound,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.settings import Settings
from shared_core.store import codec, redis_upkeep, redis_writes
from shared_core.store import redis_scripts as scripts
from shared_core.store.protocol import LONGEST_LEASE, Change, Lease, Progress, Publication, Rating, Row, Store, Write
from shared_core.store.redis_connection import Address, check_permissions, parse_address
from shared_core.store.redis_learning import LearningKeys
from shared_core.store.redis_wire import LAST, WHOLE_NUMBER, Argument, Wire, number
from shared_core.values import Clock

T = TypeVar("T")

FEED_LENGTH: Final = 100_000  # changes that a replica may miss before it must reload; about 10 MB
PUT_BATCH: Final = 200  # examples per script; 200 of 384 dimensions take half a megabyte and a few milliseconds
CLEAR_BATCH: Final = 500  # of each kind per script
TRIMMED_AT_ONCE: Final = 500  # decisions in one script of `trim_decisions`; other clients run in between
READ_BATCH: Final = 1000  # ids per command; Lua can pass on only a few thousand arguments


class RedisStore(Store):
    """A `Store` on a Redis server or cluster."""

    def __init__(self, address: Address, *, settings: Settings, clock: Clock, feed_length: int = FEED_LENGTH) -> None:
        self._wire = Wire(address)
        self._settings = settings
        self._clock = clock
        self._feed_length = feed_length
        self._learning = LearningKeys(self._wire, self._run_fed)
        check_permissions(address.label, self._wire.run(redis_upkeep.PROBE))

    @classmethod
    def open(cls, url: str, *, settings: Settings, clock: Clock, feed_length: int = FEED_LENGTH) -> RedisStore:
        """Connect to the pool at `url` (`redis_connection` describes the forms).

        Args:
            url: The address; ``?pool=name`` selects one of several pools on one server.
            settings: The times to live and the limits of `log_records`, `wait_answers` and `wait_mb` are used.
            clock: Seconds since the epoch, to decide what has expired.
            feed_length: Minimum number of changes that the feed keeps.

        Raises:
            ConfigurationError: The address is invalid.
            StoreIsUnusable: The server is too old, evicts keys, cannot be written, or refuses this user a command.
            OSError: It cannot be reached, or does not answer in time.
        """
        return cls(parse_address(url), settings=settings, clock=clock, feed_length=feed_length)

    @property
    @override
    def label(self) -> str:
        return self._wire.label

    @property
    @override
    def unreadable(self) -> int:
        return self._wire.unreadable

    @override
    def claim(self, name: str, value: str) -> str:
        claimed = self._wire.names([self._wire.run(scripts.CLAIM, name, value)])
        if not claimed:  # it cannot be read
            self._wire.command("HSET", "claims", name, value)
        return claimed[0] if claimed else value

    @override
    def write(self, batch: Sequence[Write]) -> Sequence[bool]:
        """Ratings are remembered for `decision_ttl`; after that the decision accepts no feedback anyway."""
        now = self._clock()
        args: list[Argument] = [now]
        for write in batch:
            args += redis_writes.arguments(write, self._settings, now)
        fresh = iter(self._run_fed(scripts.WRITE, *args))
        return [bool(min((next(fresh) for _ in range(redis_writes.answers(write))), default=1)) for write in batch]

    # examples -------------------------------------------------------------------------------------------------

    @override
    def put(self, examples: Sequence[Example]) -> None:
        for batch in _batches(examples, PUT_BATCH):
            self.write([Write(example=example) for example in batch])

    @override
    def delete(self, scope: str, ids: Sequence[str]) -> int:
        return int(self._run_fed(scripts.DELETE, scope, *ids)) if ids else 0

    @override
    def clear(self, scope: str | None = None) -> int:
        """Works in atomic batches; after a crash between two, the next call clears the rest."""
        if scope is not None:
            return self._clear(scope)
        held = {*self._command("SMEMBERS", "scopes"), *self._command("ZRANGE", "expiring", 0, -1)}
        removed = sum(map(self._clear, sorted(held)))
        self._command("DEL", "claims")
        return removed

    def _clear(self, scope: str | bytes) -> int:
        removed = 0
        while True:
            existed, left = self._run_fed(scripts.CLEAR, scope, CLEAR_BATCH)
            removed += int(existed)
            if not left:
                return removed

    @override
    def scopes(self) -> Sequence[str]:
        return sorted(self._wire.names(self._command("SMEMBERS", "scopes")))

    @override
    def count(self, scope: str) -> int:
        return int(self._command("ZCARD", f"ages:{scope}"))

    @override
    def oldest(self, scope: str, n: int) -> Sequence[str]:
        return self._wire.names(self._command("ZRANGE", f"ages:{scope}", 0, n - 1)) if n > 0 else []

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """One round trip for up to `READ_BATCH` examples."""
        return self._parts("texts", partial(codec.decode_texts, scope), scope, ids)

    @override
    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """One round trip for up to `READ_BATCH` examples."""
        found: list[Row] = []
        for batch in _batches(ids, READ_BATCH):
            for example_id, *parts in zip(batch, *self._wire.run(scripts.ROWS, scope, *batch), strict=True):
                row = self._decoded(lambda *data, name=example_id: codec.decode_row(scope, name, *data), *parts)
                if row is not None:
                    found.append(row)
        return found

    @override
    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """One round trip for up to `READ_BATCH` examples."""
        return self._parts("statistics", lambda _, data: codec.decode_statistics(data), scope, ids)

    @override
    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """Two round trips per batch, which do not read the same state."""
        cursor = -1
        seen: set[str] = set()
        while cursor != 0:
            cursor, members = self._command("ZSCAN", f"ages:{scope}", max(cursor, 0), "COUNT", batch)
            fresh = [name for name in self._wire.names([member for member, _ in members]) if name not in seen]
            seen.update(fresh)
            for ids in _batches(fresh, batch):
                if rows := self.rows(scope, ids):
                    yield rows

    @override
    def position(self) -> int:
        """Microseconds since the epoch, or slightly more."""
        newest = self._command("XREVRANGE", "changes", LAST, "-", "COUNT", 1)
        return number(newest[0][0]) if newest else 0

    @override
    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """`after` must be 0 or the number of a change that the feed still holds.

        Raises:
            FeedWasTrimmed: The feed does not hold it: it is too old, or the server has lost its newest writes.
        """
        pages = self._wire.pages("changes", f"{after}-0", limit + 1)
        entries = next(pages, [])
        if not entries and after == 0:
            return []
        if not entries or number(entries[0][0]) != after:
            raise FeedWasTrimmed(f"{self.label}: the change feed no longer holds {after}; reload the examples")
        for page in chain([entries[1:]], pages):
            read = (self._decoded(_change, entry) for entry in page)
            if found := [change for change in read if change is not None]:
                return found[:limit]
        return []

    # exact tier -----------------------------------------------------------------------------------------------

    @override
    def exact(self, key: str) -> ExactAnswer | None:
        answer = self._decoded(lambda data: codec.decode_exact(key, data), self._command("GET", f"exact:{key}"))
        alive_since = self._clock() - self._settings.exact_ttl
        return answer if answer and answer.created_at > alive_since else None

    @override
    def forget_exact(self, key: str) -> bool:
        return bool(self._command("DEL", f"exact:{key}"))

    # decisions and feedback -----------------------------------------------------------------------------------

    @override
    def decisions(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """One round trip for up to `READ_BATCH` decisions."""
        found: dict[str, DecisionRecord] = {}
        alive_since = self._clock() - self._settings.decision_ttl
        for batch in _batches(ids, READ_BATCH):
            stored = self._command("MGET", *(f"decision:{name}" for name in batch))
            for name, data in zip(batch, stored, strict=True):
                decision = self._decoded(lambda value, name=name: codec.decode_decision(name, value), data)
                if decision and decision.created_at > alive_since:
                    found[name] = decision
        return found

    @override
    def scan_decisions(self, scope: str, batch: int = 1024) -> Iterator[Sequence[DecisionRecord]]:
        """Reads all ids first, then each batch in one round trip."""
        ids = self._wire.names(self._command("ZRANGE", f"decisions:{scope}", 0, -1))
        for some in _batches(ids, min(batch, READ_BATCH)):
            if found := list(self.decisions(some).values()):
                yield found

    @override
    def decision_counts(self) -> Mapping[str, int]:
        """One round trip for each scope."""
        scopes = sorted(self._wire.names(self._command("ZRANGE", "expiring", 0, -1)))
        counts = {scope: int(self._command("ZCARD", f"decisions:{scope}")) for scope in scopes}
        return {scope: held for scope, held in counts.items() if held}

    @override
    def trim_decisions(self) -> int:
        removed = 0
        while done := int(self._wire.run(scripts.TRIM, self._settings.log_records, TRIMMED_AT_ONCE)):
            removed += done
        return removed

    @override
    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        """Only an empty result means the end of the log."""
        for page in self._wire.pages("feedback", f"({min(after, PLACES)}-{WHOLE_NUMBER}", limit):
            read = (
                (stream_id, self._decoded(codec.decode_feedback, fields.get(b"value"))) for stream_id, fields in page
            )
            if found := [(number(stream_id), feedback) for stream_id, feedback in read if feedback is not None]:
                return found
        return []

    @override
    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        """One round trip for up to `READ_BATCH` decisions."""
        found: dict[str, list[Rating]] = {}
        for batch in _batches(decision_ids, READ_BATCH):
            for data, is_learned in self._wire.run(scripts.RATINGS, *batch):
                feedback = self._decoded(codec.decode_feedback, data)
                if feedback is not None and feedback.decision_id in batch:
                    found.setdefault(feedback.decision_id, []).append(Rating(feedback, bool(is_learned)))
        return found

    @override
    def waiting(self, decision_ids: Sequence[str]) -> Mapping[str, WaitingAnswer]:
        """One round trip for up to `READ_BATCH` decisions."""
        found: dict[str, WaitingAnswer] = {}
        alive_since = self._clock() - self._settings.wait_ttl
        for batch in _batches(decision_ids, READ_BATCH):
            for position, scope, data in self._wire.run(scripts.WAITING, *batch):
                answer = self._decoded(partial(codec.decode_waiting, batch[position - 1]), scope, data)
                if answer and answer.entry.created_at > alive_since:
                    found[answer.decision_id] = answer
        return found

    # learning -------------------------------------------------------------------------------------------------

    @override
    def progress(self) -> Progress:
        return self._learning.progress()

    @override
    def checkpoint(self, part: str) -> Checkpoint | None:
        return self._learning.checkpoint(part)

    @override
    def publish(self, publication: Publication, lease: Lease) -> bool:
        return self._learning.publish(publication, lease, self._clock() - self._settings.decision_ttl)

    @override
    def rounds(self) -> Sequence[LearnRound]:
        return self._learning.rounds()

    @override
    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        held = self._wire.run(scripts.ACQUIRE, name, owner, ttl, LONGEST_LEASE)
        return None if held is None else Lease(name, owner, int(held[0]), float(held[1]))

    @override
    def release(self, lease: Lease) -> None:
        self._wire.run(scripts.RELEASE, lease.name, lease.token)

    @override
    def close(self) -> None:
        self._wire.close()

    # ----------------------------------------------------------------------------------------------------------

    def _command(self, command: str, first: Argument, *rest: Argument) -> Any:
        return self._wire.command(command, first, *rest)

    def _run_fed(self, source: str, *args: Argument) -> Any:
        """Run a script that writes to the change feed."""
        return self._wire.run(source, int(self._clock() * 1e6), self._feed_length, *args)

    def _decoded(self, decode: Callable[..., T], *parts: object) -> T | None:
        return self._wire.decoded(decode, *parts)

    def _parts(self, part: str, decode: Callable[[str, object], T], scope: str, ids: Sequence[str]) -> dict[str, T]:
        """One decoded part of each of these examples, by id; examples without it are left out."""
        found: dict[str, T] = {}
        for batch in _batches(ids, READ_BATCH):
            stored = self._command("HMGET", f"{part}:{scope}", *batch)
            for example_id, data in zip(batch, stored, strict=True):
                value = self._decoded(partial(decode, example_id), data)
                if value is not None:
                    found[example_id] = value
        return found


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _change(entry: tuple[bytes, Mapping[bytes, bytes]]) -> Change:
    """One entry of the feed.

    Raises:
        Unreadable: This version does not write such an entry.
    """
    stream_id, fields = entry
    return codec.decode_change(number(stream_id), fields.get(b"kind"), fields.get(b"scope"), fields.get(b"id"))
