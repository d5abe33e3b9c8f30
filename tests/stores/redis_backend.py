"""Redis under the conformance suite."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import redis

from shared_core.settings import Settings
from shared_core.store.protocol import Store
from shared_core.store.redis import RedisStore
from shared_core.values import Clock
from tests.stores.backends import Part


class RedisBackend:
    durable = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = "{iccache:" + parse_qs(urlsplit(url).query)["pool"][0] + "}:"
        self.client = redis.Redis(unix_socket_path=urlsplit(url).path)

    def open(self, settings: Settings, clock: Clock, feed_length: int) -> Store:
        return RedisStore.open(self.url, settings=settings, clock=clock, feed_length=feed_length)

    def peek(self, part: Part, key: str = "", scope: str = "") -> bytes:
        if part in ("exact", "decision"):
            data = self.client.get(f"{self.prefix}{part}:{key}")
        elif part == "feedback":
            [(_, fields)] = self.client.xrange(f"{self.prefix}feedback", f"{key}-0", f"{key}-0")
            data = fields[b"value"]
        elif part == "waiting":
            data = self.client.hget(f"{self.prefix}waiting:{key}", "value")
        elif part in ("checkpoint", "weights"):
            data = self.client.hget(*self._learned(part))
        else:
            data = self.client.hget(f"{self.prefix}{part}:{scope}", key)
        assert isinstance(data, bytes)
        return data

    def damage(self, part: Part, data: bytes, key: str = "", scope: str = "") -> None:
        self.peek(part, key, scope)
        if part in ("exact", "decision"):
            self.client.set(f"{self.prefix}{part}:{key}", data, keepttl=True)
        elif part == "feedback":
            self._rewrite("feedback", b"%d-0" % int(key), b"value", data)
        elif part == "waiting":
            self.client.hset(f"{self.prefix}waiting:{key}", "value", data)
        elif part in ("checkpoint", "weights"):
            self.client.hset(*self._learned(part), data)
        else:
            self.client.hset(f"{self.prefix}{part}:{scope}", key, data)

    def _learned(self, part: Part) -> tuple[str, str]:
        """Key and field of the head of the router's checkpoint, or of its first chunk."""
        head = f"{self.prefix}checkpoint", "part:router"
        if part == "checkpoint":
            return head
        return f"{self.prefix}part:{json.loads(self.client.hget(*head))['key']}", "0"

    def damage_change(self, seq: int, part: str, data: bytes) -> None:
        self._rewrite("changes", b"%d-0" % seq, part.encode(), data)

    def age_lease(self, name: str, seconds: float) -> None:
        lease = f"{self.prefix}lease:{name}"
        self.client.hset(lease, "expires", float(self.client.hget(lease, "expires")) - seconds)

    def _rewrite(self, stream: str, entry: bytes, field: bytes, data: bytes) -> None:
        """A stream's entries cannot be changed in place: write the whole stream again."""
        log = f"{self.prefix}{stream}"
        entries = self.client.xrange(log)
        self.client.delete(log)
        for entry_id, fields in entries:
            self.client.xadd(log, fields | {field: data} if entry_id == entry else fields, id=entry_id)
