"""Commands and scripts of the Redis store, and what their replies hold. What cannot be read is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import redis

from shared_core.errors import StoreIsUnusable
from shared_core.records import PLACES
from shared_core.store import redis_scripts as scripts
from shared_core.store import redis_upkeep
from shared_core.store.fields import Unreadable
from shared_core.store.redis_connection import Address, connect, on_the_primary, translated
from shared_core.telemetry import get_logger

log = get_logger("store")

T = TypeVar("T")
Argument: TypeAlias = str | bytes | int | float
Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]

LAST: Final = f"{PLACES - 2}-0"  # greater ids of a stream are not ours, and scripts cannot count them
WHOLE_NUMBER: Final = 2**64 - 1  # the greatest second number: an id with it comes after all with the same first one
LONGEST_NAME: Final = 1000


class Wire:
    """The connection to one pool.

    Attributes:
        label: The store's name in messages.
        unreadable: Number of stored values that could not be read.
    """

    def __init__(self, address: Address) -> None:
        self.label = address.label
        self.unreadable = 0
        self._client = connect(address)
        self._execute: Callable[..., Any] = self._client.execute_command
        self._scripts = {
            source: self._client.register_script(source)
            for source in (*scripts.ALL, redis_upkeep.PROBE, redis_upkeep.MEND)
        }
        self._prefix = f"{{iccache:{address.pool}}}:"
        self._counting = threading.Lock()
        self._closed = False

    def command(self, command: str, first: Argument, *rest: Argument) -> Any:
        """Run one command whose first argument is a key of this pool (for MGET, all arguments are)."""
        keys = [self._prefix + str(first)]
        names = [str(first).partition(":")[2], *rest]
        if command == "MGET":
            keys += [self._prefix + str(key) for key in rest]
            rest = ()
        return self._call(lambda: self._execute(command, *keys, *rest), names)

    def run(self, source: str, *args: Argument) -> Any:
        """Run one of the scripts."""
        return self._call(lambda: self._scripts[source](keys=[self._prefix], args=args), args)

    def pages(self, stream: str, start: str, size: int) -> Iterator[list[Entry]]:
        """The entries of a stream from the id `start` on, in pages; each page begins after the last id before."""
        while entries := self.command("XRANGE", stream, start, LAST, "COUNT", size):
            yield entries
            start = "(" + entries[-1][0].decode()

    def close(self) -> None:
        """Close the connections; later calls raise `StoreIsUnusable`."""
        self._closed = True
        self._client.close()

    def decoded(self, decode: Callable[..., T], *parts: object) -> T | None:
        """The decoded value; None if nothing is stored, or if it is unreadable."""
        if all(part is None for part in parts):
            return None
        try:
            return decode(*parts)
        except Unreadable:
            self._count()
            return None

    def names(self, stored: Iterable[bytes]) -> list[str]:
        """The stored names, without those that are not UTF-8."""
        found = []
        for name in stored:
            try:
                found.append(name.decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:
                self._count()
        return found

    def _call(self, call: Callable[[], Any], names: Iterable[object]) -> Any:
        """The reply to a call. If a key has another type than the pool's, it is renamed, and the call made again."""
        if self._closed:
            raise StoreIsUnusable(f"{self.label} is closed; open it again")
        with translated(self.label):
            try:
                return on_the_primary(self._client, call)
            except redis.ResponseError as error:
                if "WRONGTYPE" not in str(error) or not self._mend(names):
                    raise
                return on_the_primary(self._client, call)

    def _mend(self, names: Iterable[object]) -> int:
        used = {name for name in names if isinstance(name, str | bytes) and len(name) <= LONGEST_NAME}
        moved = int(self._scripts[redis_upkeep.MEND](keys=[self._prefix], args=list(used)))
        if moved:
            self._count(moved)
            log.warning(
                "%s: somebody has put another type of value under %d of the pool's keys; IC-Cache goes on without what "
                "they held, and keeps them under %sdamaged:*",
                self.label,
                moved,
                self._prefix,
            )
        return moved

    def _count(self, values: int = 1) -> None:
        with self._counting:
            self.unreadable += values


def number(stream_id: bytes) -> int:
    """The first number of a stream's id."""
    return int(stream_id.partition(b"-")[0])
