"""The invented command language of the demo: what makes it a fair test of in-context caching."""

from collections import Counter

import pytest

from shared_core.demo.domain import FORMS, SIZE, VALUES, pairs
from shared_core.demo.results import Alone, Case, report, thirds
from shared_core.demo.workload import built_in, equality, from_file, token_f1
from shared_core.demo.options import DemoOptions
from shared_core.errors import ConfigurationError
from shared_core.text import digest


PINNED = "12ef4b9221c70b19e2a205956c64b8049bbc6d7977073c918434b292138b827d"


def test_the_task_is_the_same_on_every_machine():
    assert digest([[p.request, p.answer] for p in pairs()]) == PINNED


def test_there_are_240_different_requests_and_every_form_comes_equally_often():
    task = pairs()
    assert len({p.request for p in task}) == len(task) == SIZE == 240
    kinds = Counter(" ".join(p.answer.split()[:2]) for p in task)
    assert set(kinds.values()) == {SIZE // len(FORMS)}


def test_every_phrasing_names_every_slot_so_that_the_answer_can_be_known():
    for form in FORMS:
        assert len(set(form.phrasings)) >= 4
        for phrasing in form.phrasings:
            for slot in form.slots():
                assert f"{{{slot}}}" in phrasing
                assert slot in VALUES


def test_no_request_contains_the_words_that_make_its_command():
    for pair in pairs():
        verb = " ".join(pair.answer.split()[:2])
        assert f"{verb} " not in pair.request
        assert "--" not in pair.request


def test_another_seed_gives_another_order_and_the_same_seed_the_same():
    assert pairs(1) == pairs(1)
    assert pairs(1) != pairs(0)


def test_the_screen_says_that_the_large_arm_is_a_file_and_what_the_reward_is():
    about = " ".join(built_in(0, 10).about)
    assert "file of the right answers" in about
    assert "reward is equality" in about


@pytest.mark.parametrize("size", [0, 241])
def test_a_size_outside_the_task_is_refused(size):
    with pytest.raises(ConfigurationError, match="1 to 240"):
        built_in(0, size)


def test_scores():
    assert equality(" a  b\n", "a b") == 1.0
    assert equality("a B", "a b") == 0.0
    assert token_f1("a b", "b c") == 0.5
    assert token_f1("", "b") == 0.0
    assert token_f1("", "") == 1.0


def test_a_file_may_know_some_answers_and_says_how_the_others_are_scored(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"request": "a", "answer": "x"}\n\n{"request": "b"}\n{"request": "a", "answer": "y"}\n')
    workload = from_file(DemoOptions(), file)
    assert workload.requests == ("a", "b")
    assert workload.score("a", "y", "whatever the large model said") == 1.0
    assert workload.score("b", "p q", "q r") == 0.5
    assert "for 1 requests" in workload.about[-1]
    assert "agreement and not truth" in workload.about[-1]


def case(number, *, offloaded, score, examples=4, **others):
    return Case(
        **{
            "number": number,
            "request": f"r{number}",
            "right": "right",
            "is_known": True,
            "arm": "small" if offloaded else "large",
            "offloaded": offloaded,
            "examples": examples if offloaded else 0,
            "explored": False,
            "answer": "a",
            "score": score,
            "large_score": 1.0,
            "copied": None,
            "alone": None,
            "tokens": 10,
            **others,
        }
    )


def test_the_report_counts_what_happened():
    cases = [
        case(1, offloaded=False, score=1.0, alone=Alone("?", 0.0, sampled=True)),
        case(2, offloaded=True, score=0.0, copied=0.0, alone=Alone("?", 1.0, sampled=False)),
        case(3, offloaded=True, score=1.0, copied=1.0),
    ]
    final = report(cases)
    large, alone, copy, ours = final.rows
    assert (large.whole.offload, large.whole.quality) == (0.0, 1.0)
    assert (alone.whole.n, alone.whole.quality) == (1, 0.0)  # the one that was not sampled has no part
    assert (copy.whole.n, copy.whole.quality) == (2, 0.5)
    assert ours.whole.offload == pytest.approx(2 / 3)
    assert [t.quality for t in ours.thirds] == [1.0, 0.0, 1.0]
    assert copy.thirds[0].quality is None
    assert (final.with_examples.n, final.with_examples.quality) == (2, 0.5)
    assert (final.large_calls, final.calls_avoided, final.tokens_avoided) == (1, 2, 20)


def test_thirds_are_everything_in_order():
    cases = [case(n, offloaded=False, score=1.0) for n in range(1, 9)]
    parts = thirds(cases)
    assert [len(p) for p in parts] == [3, 2, 3]
    assert [s for part in parts for s in part] == cases
