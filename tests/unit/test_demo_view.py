"""What a run of the demo shows of texts that have several lines."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from shared_core.demo.results import Alone, Case
from shared_core.demo.view import Lines, Picture
from shared_core.demo.workload import Workload

WORKLOAD = Workload(("write\na loop",), {}, "", (), "")
CASE = Case(
    number=1,
    request="write\na loop",
    right="for x in xs:\n    pass",
    is_known=True,
    arm="small",
    offloaded=True,
    examples=4,
    explored=False,
    answer="while True:\n    [pass]",
    score=0.5,
    large_score=1.0,
    copied=None,
    alone=Alone("no\n\nidea", 0.0, sampled=False),
    tokens=9,
)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80, force_terminal=False)


def shown(console):
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_request_is_one_line_in_a_log(console):
    with Lines(console, WORKLOAD) as view:
        view.show([CASE])
    assert shown(console) == ["1/1 small, 4 ex. 0.50: write a loop -> while True: [pass] | offload 100%, quality 0.50"]


def test_a_comparison_is_four_lines_in_a_log(console):
    Lines(console, WORKLOAD).compare(1, CASE)
    assert shown(console) == [
        "  side by side 1: write a loop",
        "    right answer:           for x in xs: pass",
        "    small alone:            no idea (wrong)",
        "    small with 4 examples:  while True: [pass] (0.50)",
    ]


def test_the_picture_shows_both_answers_side_by_side_as_they_are(console):
    Picture(console, WORKLOAD).compare(1, CASE)
    text = "\n".join(shown(console))
    assert "side by side 1: write a loop" in text
    assert "no idea  (wrong)" in text
    assert "while True: [pass]  (0.50)" in text


def test_the_large_model_is_not_called_right_where_it_is_the_yardstick(console):
    unknown = replace(CASE, is_known=False)
    with Lines(console, WORKLOAD) as view:
        view.show([replace(unknown, arm="large", offloaded=False, examples=0, score=1.0)])
        view.compare(1, unknown)
    lines = shown(console)
    assert lines[0].startswith("1/1 large -: write a loop")
    assert lines[2] == "    large model:            for x in xs: pass"
    assert lines[3] == "    small alone:            no idea (0.00)"


def test_long_texts_are_cut(console):
    with Lines(console, WORKLOAD) as view:
        view.show([replace(CASE, request="why " * 999, answer="so " * 999)])
    assert len(shown(console)[0]) < 500
