"""The offload value of an example: credits for successful offloads, decayed by the hour."""

import pytest

from shared_core.learning.statistics import credited, decayed
from shared_core.records import Statistics


def test_credits_commute():
    credits = [(1.0, 0.0), (0.5, 7200.0), (0.25, 3600.0)]
    forward = backward = Statistics()
    for credit, at in credits:
        forward = credited(forward, credit, at)
    for credit, at in reversed(credits):
        backward = credited(backward, credit, at)
    assert forward.offload_value == pytest.approx(backward.offload_value)
    assert forward.offload_value == pytest.approx(0.81 + 0.5 + 0.25 * 0.9)
    assert forward.offload_at == backward.offload_at == 7200.0


def test_a_value_of_long_ago_is_worth_nothing():
    assert decayed(1.0, 1.7e9) == 0.0
