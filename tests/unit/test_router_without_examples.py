"""Who answers when the examples came too late: the cheapest arm known to be good enough without them."""

import pytest

from shared_core.router.bandit import KNOWN_AFTER
from shared_core.values import Arm, Selection
from tests.unit.test_router import BAD, GOOD, LARGE, REQUEST, SMALL, checkpoint, router, selection, unit

TINY = Arm("tiny", 0.01)
PLAIN = Selection(vector=unit(0))  # an embedded request for which the pool has no examples


def without_examples(rewards, arms=(SMALL, LARGE), chosen=PLAIN, **settings):
    made = router(arms=arms, **settings)
    made.adopt(checkpoint(rewards, arms, version=7, chosen=chosen))
    return made.without_examples(REQUEST)


def test_an_arm_that_is_good_without_examples_answers():
    route = without_examples(GOOD)
    assert (route.arm, route.propensity, route.explored, route.features, route.version) == ("small", 1.0, False, (), 7)
    assert route.reason == "small is known to be good enough without examples"


def test_the_cheapest_of_several_answers():
    assert without_examples(GOOD | {"tiny": [1.0] * 200}, (SMALL, TINY, LARGE)).arm == "tiny"
    assert without_examples(GOOD | {"tiny": [0.1] * 200}, (SMALL, TINY, LARGE)).arm == "small"


def test_a_reference_that_is_the_cheapest_answers_itself():
    assert without_examples(GOOD, (Arm("small", 2.0), LARGE)).arm == "large"


@pytest.mark.parametrize(
    "rewards",
    [BAD, {}, {"large": [1.0] * 200}, {"small": [1.0] * (KNOWN_AFTER - 1), "large": [0.5] * 200}],
    ids=["worse", "nothing rated", "never asked", "rated too little"],
)
def test_in_doubt_the_reference_answers(rewards):
    route = without_examples(rewards)
    assert route.arm == "large"
    assert route.reason == "no cheaper arm is known to be good enough without examples"


def test_being_good_with_examples_is_no_evidence():
    assert without_examples(GOOD, chosen=selection()).arm == "large"


def test_nothing_is_drawn():
    made = router(explore=1.0)
    made.adopt(checkpoint(GOOD, chosen=PLAIN))
    assert len({made.without_examples(REQUEST) for _ in range(50)}) == 1
