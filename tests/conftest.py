"""Fixtures for all tests."""

from tests.servers import redis_server, redis_url

__all__ = ["redis_server", "redis_url"]
