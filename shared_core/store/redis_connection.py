"""Connects the Redis store to its server: address, timeouts, and checks of the server.

An address is ``redis://[user:password@]host[:port][/db][?pool=name]``, ``rediss://…`` for TLS, or
``unix:///path/to/socket[?db=n&password=…&pool=name]``. Cluster mode is detected.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

from shared_core.errors import ConfigurationError, ExtraIsMissing, StoreIsAway, StoreIsUnusable
from shared_core.store.errors import StoreRefuses
from shared_core.telemetry import get_logger
from shared_core.user_warning import warn_user

try:
    import redis
    import redis.backoff
    import redis.cluster
    import redis.connection
    import redis.retry
except ImportError as error:
    raise ExtraIsMissing("redis", "redis") from error

_parse_url: Callable[[str], dict[str, Any]] = redis.connection.parse_url
log = get_logger("store")

T = TypeVar("T")
Client: TypeAlias = "redis.Redis | redis.cluster.RedisCluster"

OLDEST_VERSION: Final = (6, 2)  # ZADD GT, exclusive stream ranges
DEFAULT_POOL: Final = "iccache"
TIMEOUTS: Final = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0}  # seconds; the address may override them

_POOL: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # no brace: the name is the hash tag
_SPELLING: Final = "redis://[user:password@]host[:port][/db][?pool=name] or unix:///path/to/socket[?pool=name]"
_OPTIONS: Final = frozenset({"db", "username", "password", "client_name", "max_connections", *TIMEOUTS})
_TLS: Final = frozenset(
    name for name in inspect.signature(redis.connection.SSLConnection.__init__).parameters if name.startswith("ssl_")
)

# Errors of a server's state; inside a script they are a part of the message.
_PASSING: Final = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_STATES: Final = ("BUSY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a pool. `label` holds no secrets; `options` may hold the password."""

    label: str
    pool: str
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Address({self.label!r})"


def parse_address(url: str) -> Address:
    """Parse the address of a pool.

    Raises:
        ConfigurationError: The address is invalid. The message never quotes it, because it may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = _parse_url(url)
        host, port = parts.hostname or "localhost", parts.port or 6379
    except ValueError:
        raise ConfigurationError(f"the Redis URL is invalid; write {_SPELLING}, special characters as %XX") from None
    over_tcp = parts.scheme != "unix"
    if over_tcp and ("@" in parts.path + parts.query + parts.fragment or not re.fullmatch(r"/?\d*", parts.path)):
        raise ConfigurationError(
            f"the Redis URL's path is not a database number; write {_SPELLING}, special characters of a password as %XX"
        )
    if not over_tcp and not options.get("path"):
        raise ConfigurationError(f"the Redis URL has no socket path; write {_SPELLING}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    pool = query.pop("pool", DEFAULT_POOL)
    options.pop("pool", None)
    if not _POOL.fullmatch(pool):
        raise ConfigurationError(
            f"{pool!r} is not a valid pool name; use 1 to 100 letters, digits, dots, hyphens, underscores"
        )
    if unknown := sorted(query.keys() - _OPTIONS - _TLS):
        known = ", ".join(sorted({"pool", *_OPTIONS, *(_TLS if parts.scheme == "rediss" else ())}))
        raise ConfigurationError(f"the Redis URL has unknown options {', '.join(unknown)}; known: {known}")
    if parts.scheme != "rediss" and (tls := sorted(query.keys() & _TLS)):
        raise ConfigurationError(f"the Redis URL has options of TLS, {', '.join(tls)}; write rediss:// for TLS")
    if options.get("max_connections", 1) < 1:
        raise ConfigurationError("the Redis URL has max_connections below 1; leave it out, or allow at least 1")
    if over_tcp:
        where = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{options.get('db', 0)}"
    else:
        where = f"unix://{options['path']}"
    return Address(f"{where}?pool={pool}", pool, options)


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Translate redis-py's exceptions into ours.

    Raises:
        StoreIsUnusable: The server refuses us: wrong user or password, or a command that the user may not run.
        StoreIsAway: It cannot be reached, did not answer in time (a write may or may not have been applied), or answered
            with an error that may pass (out of memory, read-only replica, …).
        StoreRefuses: It answered with an error that it would give again.
    """
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise StoreIsUnusable(f"{label} refuses this user: {error}") from error
    except redis.TimeoutError as error:
        raise StoreIsAway(f"{label} did not answer in time", "what was to be stored may be; try again") from error
    except redis.exceptions.BusyLoadingError as error:
        raise StoreIsAway(f"{label} is still loading its data", "try again when it has") from error
    except redis.ConnectionError as error:
        raise StoreIsAway(f"{label} cannot be reached: {error}", "start the server, and try again") from error
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        kind = StoreIsAway if _may_pass(error) else StoreRefuses
        raise kind(f"{label}: {error}") from error


def _may_pass(error: Exception) -> bool:
    is_response = isinstance(error, redis.ResponseError)
    return not is_response or isinstance(error, _PASSING) or any(state in str(error) for state in _STATES)


def on_the_primary(client: Client, call: Callable[[], T]) -> T:
    """The result of `call`. If the server has become a read-only replica, it is called again on new connections.

    After a failover the address leads to another server, but open connections still lead to the old one. A cluster's
    client follows a failover by itself.
    """
    try:
        return call()
    except redis.ResponseError as error:
        if not _is_read_only(error) or isinstance(client, redis.cluster.RedisCluster):
            raise
        client.connection_pool.disconnect(inuse_connections=False)
        return call()


def check_permissions(label: str, refused: Sequence[bytes]) -> None:
    """Refuse a server on which `redis_upkeep.PROBE` could not do everything.

    Args:
        label: The store's name in messages.
        refused: What the script returned: the command and the server's error, or nothing.

    Raises:
        StoreIsUnusable: A command was refused.
    """
    if not refused:
        return
    command, error = (part.decode("utf-8", "replace") for part in refused)
    if "READONLY" in error:
        mend = "it is a read-only replica; use the address of the primary"
    elif "unknown" in error.lower():
        mend = "the server does not offer this command; remove rename-command from redis.conf"
    elif "NOPERM" in error or "can't run this command" in error:
        mend = f"grant it to the user: ACL SETUSER name +{command.lower()}"
    else:
        mend = "mend the server first"
    raise StoreIsUnusable(f"{label} cannot be written, because {command} is refused ({error}): {mend}")


def _is_read_only(error: redis.ResponseError) -> bool:
    return isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in str(error)


def connect(address: Address) -> Client:
    """A client of this server, after a check that the server can hold a pool.

    Raises:
        StoreIsUnusable: It is older than 6.2, evicts keys, or refuses us.
        OSError: See `translated`.
    """
    # A broken connection is retried once, without delay, because a restart of the server breaks every pooled one. A
    # timeout is not retried: the server is slow already, and the request path has passed its deadline by then.
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 1, (redis.ConnectionError,))
    options: dict[str, Any] = {**TIMEOUTS, **address.options}
    # RESP2 and undecoded replies, regardless of the library's defaults, because the store parses these.
    options |= {"protocol": 2, "decode_responses": False, "encoding_errors": "surrogatepass", "retry": retry}
    try:
        with translated(address.label):
            client = redis.Redis(connection_pool=_connections(options))
            in_cluster_mode = _check(client, address.label)
            if not in_cluster_mode:
                return client
            client.close()
            return _cluster(address, options)
    except TypeError as error:
        raise ConfigurationError(f"{address.label}: {error}") from error


class _WaitingPool(redis.BlockingConnectionPool):
    """Connections for which threads wait as long as for an answer."""

    def __init__(self, **options: Any) -> None:
        seconds = options.get("socket_timeout", TIMEOUTS["socket_timeout"])
        super().__init__(timeout=seconds, **options)  # type: ignore[no-untyped-call]

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Break all connections, or those that nobody uses; older releases of redis-py know only the first."""
        for connection in self._connections if inuse_connections else list(self.pool.queue):
            if connection is not None:
                connection.disconnect()


def _connections(options: Mapping[str, Any]) -> redis.ConnectionPool:
    """As many connections as threads use at once; a thread waits where `max_connections` allows fewer."""
    return (_WaitingPool if "max_connections" in options else redis.ConnectionPool)(**options)


def _cluster(address: Address, options: Mapping[str, Any]) -> redis.cluster.RedisCluster:
    if "path" in options:
        raise StoreIsUnusable(f"{address.label} is a cluster; use its host and port: redis://host:port")
    kept = {name: value for name, value in options.items() if name not in {"connection_class", "db"}}
    if options.get("connection_class") is redis.SSLConnection:
        kept["ssl"] = True
    if "max_connections" in kept:
        kept["connection_pool_class"] = _WaitingPool
    return redis.cluster.RedisCluster(**({"host": "localhost"} | kept))


def _check(client: redis.Redis, label: str) -> bool:
    """Refuse a server that cannot hold a pool; returns whether it is in cluster mode."""
    try:
        info: Mapping[str, Any] = client.info()
    except redis.ResponseError as error:
        if isinstance(error, redis.exceptions.NoPermissionError) or "unknown command" in str(error):
            log.warning("%s does not permit INFO, so version, eviction and persistence were not checked", label)
            return False
        raise
    version = str(info.get("redis_version", ""))
    if (numbers := _version(version)) is not None and numbers < OLDEST_VERSION:
        raise StoreIsUnusable(f"{label} is Redis {version}; IC-Cache needs 6.2 or newer")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreIsUnusable(
            f"{label} has maxmemory-policy {policy}, which deletes stored examples when memory is short; "
            "run CONFIG SET maxmemory-policy noeviction (and set it in redis.conf)"
        )
    if not info.get("aof_enabled", 0):
        _check_snapshots(client, label)
    return info.get("redis_mode") == "cluster"


def _check_snapshots(client: redis.Redis, label: str) -> None:
    try:
        saves = str(client.config_get("save").get("save", ""))
    except redis.ResponseError:
        log.warning("%s does not permit CONFIG, so its snapshots were not checked", label)
        return
    if not saves:
        warn_user(
            f"{label} keeps nothing on disk (appendonly no, no save points): a restart empties the pool; "
            "run CONFIG SET appendonly yes",
            RuntimeWarning,
        )


def _version(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
