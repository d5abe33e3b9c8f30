"""Redis under the conformance suite."""

from __future__ import annotations

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
        raise NotImplementedError("the Redis store's own layout goes here")

    def damage(self, part: Part, data: bytes, key: str = "", scope: str = "") -> None:
        raise NotImplementedError("the Redis store's own layout goes here")
