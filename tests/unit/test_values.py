"""Which texts are the same request: white space counts where it may say something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_core.text import canonical_text
from shared_core.values import Message, Request

LOOP = "for x in xs:\n    total += x\nprint(total)"


def key(text):
    return Request((Message("user", text),), text).exact_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what is 2 + 2?", "  what is\t2  + 2?\n"),
        ("caf\u00e9", "cafe\u0301"),
        (LOOP, LOOP.replace("\n", "\r\n")),
        (LOOP, LOOP.replace("\n", "  \r")),
        (LOOP, f"\n \n{LOOP}\n\n"),
    ],
)
def test_what_no_reader_can_see_makes_no_other_request(one, other):
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LOOP, LOOP.replace("print", "    print")),  # another program: it prints inside the loop
        (LOOP, "    " + LOOP),
        ("a:\n  b: 1\n  c: 2", "a:\n  b: 1\nc: 2"),
        ("name   age\nann      3", "name age\nann 3"),
        ("one\ntwo", "one two"),
        ("one\n\ntwo", "one\ntwo"),
        ("May I?", "may I?"),
    ],
)
def test_what_may_mean_something_does(one, other):
    assert key(one) != key(other)


@given(st.text())
def test_evening_out_twice_changes_nothing(text):
    assert canonical_text(canonical_text(text)) == canonical_text(text)


@given(st.text(st.sampled_from("ab \t\n")))
def test_only_white_space_is_ever_left_out(text):
    assert "".join(canonical_text(text).split()) == "".join(text.split())
