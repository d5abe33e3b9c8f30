"""The Redis store: where processes or machines share a pool. Redis 6.2 or newer, no modules.

Every write is one Lua script (`redis_scripts` lists the keys), every read one command or script. The client sends a
call again if its connection broke, so that a call may be applied twice; then `record`, `put`, `claim`, `acquire` and
`release` leave the same state, `append_feedback` and `publish` recognise their own first try by a token, and `delete`,
`clear` and `forget_exact` may report less than they removed. A call that raises may or may not have been applied.

"Durable" is what the server was told to make of it: with ``appendfsync always`` nothing acknowledged is lost, with
``everysec`` up to a second of it may be.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from typing_extensions import override

from shared_core.errors import FeedWasTrimmed, StoreIsUnusable
from shared_core.records import Checkpoint, DecisionRecord, ExactAnswer, Example, Feedback, Statistics, Texts
from shared_core.settings import Settings
from shared_core.store import codec
from shared_core.store import redis_scripts as scripts
from shared_core.store.fields import Unreadable
from shared_core.store.protocol import Change, Lease, Row, Store
from shared_core.store.redis_connection import Address, connect, parse_address, translated
from shared_core.values import Clock

T = TypeVar("T")
Argument: TypeAlias = str | bytes | int | float

FEED_LENGTH: Final = 100_000  # changes that a replica may sleep through before it must reload; about 10 MB
PUT_BATCH: Final = 200  # examples a script; 200 of 384 dimensions are half a megabyte and some milliseconds
CLEAR_BATCH: Final = 500  # of each kind a script
CONSUMED: Final = 1000  # of the oldest log entries, how many a publication looks at to drop them
READ_BATCH: Final = 1000  # ids a command; Lua can hand on no more than some thousand arguments

_NOBODY: Final = ("",) * 5


class RedisStore(Store):
    """A pool on a Redis server or cluster. See `shared_core.store.protocol.Store` for what each method does."""

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

    @classmethod
    def open(cls, url: str, *, settings: Settings, clock: Clock, feed_length: int = FEED_LENGTH) -> RedisStore:
        """Connect to the pool at `url` (`redis_connection` has the forms).

        Args:
            url: The address; ``?pool=name`` picks one of several pools on one server.
            settings: Only the times to live are read.
            clock: Seconds since the epoch; decides what has expired.
            feed_length: How many changes the feed keeps, at least.

        Raises:
            ConfigurationError: The address cannot be read.
            StoreIsUnusable: The server is too old, evicts keys, or refuses this user.
            OSError: It cannot be reached, or does not answer in time.
        """
        return cls(parse_address(url), settings=settings, clock=clock, feed_length=feed_length)

    @property
    @override
    def label(self) -> str:
        """The address without user and password."""
        return self._label

    @property
    @override
    def unreadable(self) -> int:
        """How many stored values were skipped because they could not be read."""
        return self._unreadable

    @override
    def claim(self, name: str, value: str) -> str:
        """Set a pool-wide fact once; returns the value in force."""
        return _string(self._run(scripts.CLAIM, name, value))

    # examples -------------------------------------------------------------------------------------------------

    @override
    def record(
        self,
        decision: DecisionRecord | None = None,
        example: Example | None = None,
        exact: ExactAnswer | None = None,
    ) -> None:
        """Write what one answered request leaves behind, in one script."""
        self._write(decision, exact, [example] if example else [])

    @override
    def put(self, examples: Sequence[Example]) -> None:
        """Write many examples, `PUT_BATCH` a script."""
        for batch in _batches(examples, PUT_BATCH):
            self._write(None, None, batch)

    def _write(self, decision: DecisionRecord | None, exact: ExactAnswer | None, examples: Sequence[Example]) -> None:
        now = self._clock()
        args: list[Argument] = [now]
        if decision:
            expires = decision.created_at + self._settings.decision_ttl
            args += [
                decision.id,
                decision.scope,
                codec.encode_decision(decision),
                expires,
                _milliseconds(expires - now),
            ]
        else:
            args += _NOBODY
        if exact:
            expires = exact.created_at + self._settings.exact_ttl
            args += [exact.key, exact.scope, codec.encode_exact(exact), expires, _milliseconds(expires - now)]
        else:
            args += _NOBODY
        for example in examples:
            entry, encoded = example.entry, codec.encode_example(example)
            args += [entry.id, entry.scope, entry.created_at]
            args += [encoded.entry, encoded.statistics, encoded.texts, encoded.vector, entry.exact_key]
        self._run_fed(scripts.RECORD, *args)

    @override
    def delete(self, scope: str, ids: Sequence[str]) -> int:
        """Remove examples and their exact answers, in one script; returns how many existed."""
        return int(self._run_fed(scripts.DELETE, scope, *ids)) if ids else 0

    @override
    def clear(self, scope: str | None = None) -> int:
        """Empty a scope or all, in atomic batches; a crash between two leaves the rest whole, for the next call."""
        if scope is not None:
            return self._clear(scope)
        held = {*self._command("SMEMBERS", "scopes"), *self._command("ZRANGE", "leavings", 0, -1)}
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
        """The scopes that hold examples, sorted."""
        return sorted(_string(scope) for scope in self._command("SMEMBERS", "scopes"))

    @override
    def count(self, scope: str) -> int:
        """How many examples a scope holds."""
        return int(self._command("ZCARD", f"ages:{scope}"))

    @override
    def oldest(self, scope: str, n: int) -> Sequence[str]:
        """Ids of the `n` oldest examples, oldest first."""
        return [_string(name) for name in self._command("ZRANGE", f"ages:{scope}", 0, n - 1)] if n > 0 else []

    @override
    def texts(self, scope: str, ids: Sequence[str]) -> Mapping[str, Texts]:
        """Texts of these examples; one round trip for up to `READ_BATCH` of them."""
        return self._parts("texts", codec.decode_texts, scope, ids)

    @override
    def rows(self, scope: str, ids: Sequence[str]) -> Sequence[Row]:
        """Rows of these examples; one round trip for up to `READ_BATCH` of them."""
        found: list[Row] = []
        for batch in _batches(ids, READ_BATCH):
            for example_id, *parts in zip(batch, *self._run(scripts.ROWS, scope, *batch), strict=True):
                row = self._decoded(lambda *data, name=example_id: codec.decode_row(scope, name, *data), *parts)
                if row is not None:
                    found.append(row)
        return found

    @override
    def statistics(self, scope: str, ids: Sequence[str]) -> Mapping[str, Statistics]:
        """Statistics of these examples; one round trip for up to `READ_BATCH` of them."""
        return self._parts("statistics", codec.decode_statistics, scope, ids)

    @override
    def scan(self, scope: str, batch: int = 1024) -> Iterator[Sequence[Row]]:
        """All rows of a scope: two round trips a batch, which are not one moment."""
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
        """Sequence number of the newest change: microseconds since the epoch, or a little more."""
        newest = self._command("XREVRANGE", "changes", "+", "-", "COUNT", 1)
        return _number(newest[0][0]) if newest else 0

    @override
    def changes(self, after: int, limit: int = 1000) -> Sequence[Change]:
        """Changes after `after`, which must be 0 or the number of a change that the feed still holds.

        Only an empty answer means that the feed has ended.

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
        """The stored answer of this key, unless it expired."""
        answer = self._decoded(lambda data: codec.decode_exact(key, data), self._command("GET", f"exact:{key}"))
        alive_since = self._clock() - self._settings.exact_ttl
        return answer if answer and answer.created_at > alive_since else None

    @override
    def forget_exact(self, key: str) -> bool:
        """Remove one exact answer; True if it was there."""
        return bool(self._command("DEL", f"exact:{key}"))

    # decisions and feedback -----------------------------------------------------------------------------------

    @override
    def decisions(self, ids: Sequence[str]) -> Mapping[str, DecisionRecord]:
        """Records of these decisions; one round trip for up to `READ_BATCH` of them."""
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
    def append_feedback(self, feedback: Feedback) -> bool:
        """Append to the log; False if this rater has judged this decision before.

        The judgement is remembered for `decision_ttl`: by then the decision itself takes no more feedback.
        """
        remember = _milliseconds(self._settings.decision_ttl)
        call, value = secrets.token_hex(8), codec.encode_feedback(feedback)
        args = (feedback.decision_id, feedback.rater, call, value, feedback.at, remember)
        return bool(self._run(scripts.FEEDBACK, *args))

    @override
    def feedback(self, after: int, limit: int = 1000) -> Sequence[tuple[int, Feedback]]:
        """Log entries with offset > `after`, oldest first. Only an empty answer means that the log has ended."""
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

    # learning -------------------------------------------------------------------------------------------------

    @override
    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint; an empty one of version 0 before the first."""
        head, arrays = self._command("HMGET", "checkpoint", "head", "arrays")
        return self._decoded(codec.decode_checkpoint, head, arrays) or Checkpoint()

    @override
    def checkpoint_version(self) -> int:
        """Version of the newest checkpoint."""
        return int(self._command("HGET", "checkpoint", "version") or 0)

    @override
    def publish(
        self,
        checkpoint: Checkpoint,
        expected: tuple[int, int],
        statistics: Mapping[tuple[str, str], Statistics],
        lease: Lease,
    ) -> bool:
        """Replace the checkpoint and the statistics in one script; False if another was faster.

        Feedback that was learned from and whose decisions have expired leaves the log, `CONSUMED` entries a call.
        The server does nothing else meanwhile: 5 to 10 ms for 1000 statistics on a laptop's core. One call for more
        than some 50,000 comes near the socket timeout.
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
        """Take or renew a lease for `ttl` seconds; None while another owner holds it."""
        now = self._clock()
        token = self._run(scripts.ACQUIRE, name, owner, now, now + ttl)
        return None if token is None else Lease(name, owner, int(token), now + ttl)

    @override
    def release(self, lease: Lease) -> None:
        """Give a lease back, unless it was lost meanwhile."""
        self._run(scripts.RELEASE, lease.name, lease.token)

    @override
    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._client.close()

    # the wire -------------------------------------------------------------------------------------------------

    def _command(self, command: str, first: Argument, *rest: Argument) -> Any:
        """Run one command whose first argument is a key of this pool (for MGET, whose arguments all are)."""
        self._check_open()
        keys = [self._prefix + str(first)]
        if command == "MGET":
            keys += [self._prefix + str(key) for key in rest]
            rest = ()
        with translated(self._label):
            return self._execute(command, *keys, *rest)

    def _run(self, source: str, *args: Argument) -> Any:
        self._check_open()
        with translated(self._label):
            return self._scripts[source](keys=[self._prefix], args=args)

    def _run_fed(self, source: str, *args: Argument) -> Any:
        """Run a script that writes to the change feed."""
        return self._run(source, int(self._clock() * 1e6), self._feed_length, *args)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreIsUnusable(f"{self._label} was closed; open it again")

    # what comes back ------------------------------------------------------------------------------------------

    def _parts(self, part: str, decode: Callable[[bytes], T], scope: str, ids: Sequence[str]) -> dict[str, T]:
        """One encoded part of each of these examples that has it."""
        found: dict[str, T] = {}
        for batch in _batches(ids, READ_BATCH):
            stored = self._command("HMGET", f"{part}:{scope}", *batch)
            for example_id, data in zip(batch, stored, strict=True):
                value = self._decoded(decode, data)
                if value is not None:
                    found[example_id] = value
        return found

    def _decoded(self, decode: Callable[..., T], *parts: object) -> T | None:
        """The value of these stored parts; None if nothing is stored, or if it cannot be read (which is counted)."""
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


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _string(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _number(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])


def _change(entry: tuple[bytes, Mapping[bytes, bytes]]) -> Change:
    """One step of the feed.

    Raises:
        Unreadable: It is not one that this version writes.
    """
    stream_id, fields = entry
    return codec.decode_change(_number(stream_id), fields.get(b"kind"), fields.get(b"scope"), fields.get(b"id"))
