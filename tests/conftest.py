"""Fixtures for all tests."""

import pytest

from shared_core.telemetry import forget_warnings
from tests.servers import redis_server, redis_url

__all__ = ["redis_server", "redis_url"]


@pytest.fixture(autouse=True)
def _each_test_hears_every_warning():
    forget_warnings()
