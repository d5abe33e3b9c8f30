"""The Redis store, for pools that several processes or machines share. Redis 6.2 or newer, no modules.

Every write is one Lua script (`redis_scripts` lists the keys), every read one command or script. The client repeats a
call whose connection broke, so a call may be applied twice. Then `put`, `claim`, `acquire` and `release` leave the same
state, the ratings of a `write` and `publish` recognise their first attempt by a token, and `delete`, `clear`
and `forget_exact` may report less than they deleted. A call that raises may or may not have been applied.

Durability depends on the server: with ``appendfsync always`` no acknowledged write is lost, with ``everysec`` up to one
second of writes may be.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from typing_extensions import override

from shared_core.errors import FeedWasTrimmed, StoreIsUnusable
from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.settings import Settings
from shared_core.store import codec, redis_writes
from shared_core.store import redis_scripts as scripts
from shared_core.store.fields import Unreadable
from shared_core.store.protocol import Change, Lease, Rating, Row, Store, Write
from shared_core.store.redis_connection import (
    Address,
    check_permissions,
    connect,
    on_the_primary,
    parse_address,
    translated,
)
from shared_core.store.redis_writes import Argument
from shared_core.values import Clock

T = TypeVar("T")

FEED_LENGTH: Final = 100_000  # changes that a replica may miss before it must reload; about 10 MB
PUT_BATCH: Final = 200  # examples per script; 200 of 384 dimensions take half a megabyte and a few milliseconds
CLEAR_BATCH: Final = 500  # of each kind per script
TRIMMED_AT_ONCE: Final = 500  # decisions in one script of `trim_decisions`; other clients run in between
CONSUMED: Final = 1000  # oldest log entries that one publication checks for deletion
READ_BATCH: Final = 1000  # ids per command; Lua can pass on only a few thousand arguments


class RedisStore(Store):
    """A `Store` on a Redis server or cluster."""

    def __init__(self, address: Address, *, settings: Settings, clock: Clock, feed_length: int = FEED_LENGTH) -> None:
        self._label = address.label
        self._client = connect(address)
        self._execute: Callable[..., Any] = self._client.execute_command
        self._scripts = {source: self._client.register_script(source) for source in scripts.ALL}
        self._prefix = f"{{iccache:{address.pool}}}:"
        self._settings = settings
        self._clock = clock
        self._feed_length = feed_length
        self._lock = threading.Lock()
        self._unreadable = 0
        self._closed = False
        check_permissions(self._label, self._run(scripts.PROBE))

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
        return self._label

    @property
    @override
    def unreadable(self) -> int:
        return self._unreadable

    @override
    def claim(self, name: str, value: str) -> str:
        return _string(self._run(scripts.CLAIM, name, value))

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
        removed = sum(self._clear(_string(name)) for name in sorted(held))
        self._command("DEL", "claims")
        return removed

    def _clear(self, scope: str) -> int:
        removed = 0
        while True:
            existed, left = self._run_fed(scripts.CLEAR, scope, CLEAR_BATCH)
            removed += int(existed)
            if not left:
                return removed

    @override
    def scopes(self) -> Sequence[str]:
        return sorted(_string(scope) for scope in self._command("SMEMBERS", "scopes"))

    @override
    def count(self, scope: str) -> int:
        return int(self._command("ZCARD", f"ages:{scope}"))

    @override
    def oldest(self, scope: str, n: int) -> Sequence[str]:
        return [_string(name) for name in self._command("ZRANGE", f"ages:{scope}", 0, n - 1)] if n > 0 else []

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """One round trip for up to `READ_BATCH` examples."""
        return self._parts("texts", codec.decode_texts, scope, ids)

    @override
    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """One round trip for up to `READ_BATCH` examples."""
        found: list[Row] = []
        for batch in _batches(ids, READ_BATCH):
            for example_id, *parts in zip(batch, *self._run(scripts.ROWS, scope, *batch), strict=True):
                row = self._decoded(lambda *data, name=example_id: codec.decode_row(scope, name, *data), *parts)
                if row is not None:
                    found.append(row)
        return found

    @override
    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """One round trip for up to `READ_BATCH` examples."""
        return self._parts("statistics", codec.decode_statistics, scope, ids)

    @override
    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """Two round trips per batch, which do not read the same state."""
        cursor = -1
        seen: set[str] = set()
        while cursor != 0:
            cursor, members = self._command("ZSCAN", f"ages:{scope}", max(cursor, 0), "COUNT", batch)
            fresh = [name for name in (_string(member) for member, _ in members) if name not in seen]
            seen.update(fresh)
            for ids in _batches(fresh, batch):
                if rows := self.rows(scope, ids):
                    yield rows

    @override
    def position(self) -> int:
        """Microseconds since the epoch, or slightly more."""
        newest = self._command("XREVRANGE", "changes", "+", "-", "COUNT", 1)
        return _number(newest[0][0]) if newest else 0

    @override
    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """`after` must be 0 or the number of a change that the feed still holds.

        Raises:
            FeedWasTrimmed: The feed does not hold it: it is too old, or the server has lost its newest writes.
        """
        while True:
            entries = self._command("XRANGE", "changes", f"{after}-0", "+", "COUNT", limit + 1)
            if not entries and after == 0:
                return []
            if not entries or _number(entries[0][0]) != after:
                raise FeedWasTrimmed(f"{self._label}: the change feed no longer holds {after}; reload the examples")
            read = (self._decoded(_change, entry) for entry in entries[1:])
            found = [change for change in read if change is not None]
            if found or len(entries) == 1:
                return found
            after = _number(entries[-1][0])

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
        ids = [_string(name) for name in self._command("ZRANGE", f"decisions:{scope}", 0, -1)]
        for some in _batches(ids, min(batch, READ_BATCH)):
            if found := list(self.decisions(some).values()):
                yield found

    @override
    def decision_counts(self) -> Mapping[str, int]:
        """One round trip for each scope."""
        scopes = sorted(_string(scope) for scope in self._command("ZRANGE", "expiring", 0, -1))
        counts = {scope: int(self._command("ZCARD", f"decisions:{scope}")) for scope in scopes}
        return {scope: held for scope, held in counts.items() if held}

    @override
    def trim_decisions(self) -> int:
        removed = 0
        while done := int(self._run(scripts.TRIM, self._settings.log_records, TRIMMED_AT_ONCE)):
            removed += done
        return removed

    @override
    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        """Only an empty result means the end of the log."""
        found: list[tuple[int, Feedback]] = []
        while not found:
            entries = self._command("XRANGE", "feedback", f"({after}-0", "+", "COUNT", limit)
            if not entries:
                break
            for stream_id, fields in entries:
                after = _number(stream_id)
                judgement = self._decoded(codec.decode_feedback, fields.get(b"value"))
                if judgement is not None:
                    found.append((after, judgement))
        return found

    @override
    def ratings(self, decision_ids: Sequence[str]) -> Mapping[str, Sequence[Rating]]:
        """One round trip for up to `READ_BATCH` decisions."""
        found: dict[str, list[Rating]] = {}
        for batch in _batches(decision_ids, READ_BATCH):
            for data, is_learned in self._run(scripts.RATINGS, *batch):
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
            for name, (scope, data) in zip(batch, self._run(scripts.WAITING, *batch), strict=True):
                answer = self._decoded(partial(codec.decode_waiting, name), scope, data)
                if answer and answer.entry.created_at > alive_since:
                    found[name] = answer
        return found

    # learning -------------------------------------------------------------------------------------------------

    @override
    def checkpoint(self) -> Checkpoint:
        head, arrays = self._command("HMGET", "checkpoint", "head", "arrays")
        return self._decoded(codec.decode_checkpoint, head, arrays) or Checkpoint()

    @override
    def checkpoint_version(self) -> int:
        return int(self._command("HGET", "checkpoint", "version") or 0)

    @override
    def publish(
        self,
        checkpoint: Checkpoint,
        expected: tuple[int, int],
        statistics: Mapping[tuple[str, str], Statistics],
        lease: Lease,
    ) -> bool:
        """Also deletes feedback that was learned from and whose decision has expired, up to `CONSUMED` entries.

        The script blocks the server: 5 to 10 ms for 1000 statistics on a laptop's core. A call with more than about
        50,000 statistics comes near the socket timeout.
        """
        encoded = codec.encode_checkpoint(checkpoint)
        args: list[Argument] = [lease.name, lease.token, *expected, secrets.token_hex(8)]
        args += [CONSUMED, self._clock() - self._settings.decision_ttl]
        args += [checkpoint.version, checkpoint.offset, encoded.head, encoded.arrays]
        for (scope, example_id), learned in statistics.items():
            args += [scope, example_id, codec.encode_statistics(learned)]
        return bool(self._run_fed(scripts.PUBLISH, *args))

    @override
    def acquire(self, name: str, owner: str, ttl: float) -> Lease | None:
        now = self._clock()
        token = self._run(scripts.ACQUIRE, name, owner, now, now + ttl)
        return None if token is None else Lease(name, owner, int(token), now + ttl)

    @override
    def release(self, lease: Lease) -> None:
        self._run(scripts.RELEASE, lease.name, lease.token)

    @override
    def close(self) -> None:
        self._closed = True
        self._client.close()

    # the wire -------------------------------------------------------------------------------------------------

    def _command(self, command: str, first: Argument, *rest: Argument) -> Any:
        """Run one command whose first argument is a key of this pool (for MGET, all arguments are)."""
        self._check_open()
        keys = [self._prefix + str(first)]
        if command == "MGET":
            keys += [self._prefix + str(key) for key in rest]
            rest = ()
        with translated(self._label):
            return on_the_primary(self._client, lambda: self._execute(command, *keys, *rest))

    def _run(self, source: str, *args: Argument) -> Any:
        self._check_open()
        with translated(self._label):
            return on_the_primary(self._client, lambda: self._scripts[source](keys=[self._prefix], args=args))

    def _run_fed(self, source: str, *args: Argument) -> Any:
        """Run a script that writes to the change feed."""
        return self._run(source, int(self._clock() * 1e6), self._feed_length, *args)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreIsUnusable(f"{self._label} is closed; open it again")

    # what comes back ------------------------------------------------------------------------------------------

    def _parts(self, part: str, decode: Callable[[bytes], T], scope: str, ids: Sequence[str]) -> dict[str, T]:
        """One decoded part of each of these examples, by id; examples without it are left out."""
        found: dict[str, T] = {}
        for batch in _batches(ids, READ_BATCH):
            stored = self._command("HMGET", f"{part}:{scope}", *batch)
            for example_id, data in zip(batch, stored, strict=True):
                value = self._decoded(decode, data)
                if value is not None:
                    found[example_id] = value
        return found

    def _decoded(self, decode: Callable[..., T], *parts: object) -> T | None:
        """The decoded value; None if nothing is stored, or if it is unreadable (which is counted)."""
        if all(part is None for part in parts):
            return None
        try:
            return decode(*parts)
        except Unreadable:
            with self._lock:
                self._unreadable += 1
            return None


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _string(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _number(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])


def _change(entry: tuple[bytes, Mapping[bytes, bytes]]) -> Change:
    """One entry of the feed.

    Raises:
        Unreadable: This version does not write such an entry.
    """
    stream_id, fields = entry
    return codec.decode_change(_number(stream_id), fields.get(b"kind"), fields.get(b"scope"), fields.get(b"id"))
