"""Which answers may become examples, and what redaction lets through."""

from dataclasses import replace

import numpy as np
import pytest

from shared_core.errors import ConfigurationError, RedactionFailed
from shared_core.manager.admission import RULES, Candidate, Rule, refusal
from shared_core.manager.examples import example_id, example_of
from shared_core.manager.privacy import redacted
from shared_core.records import Texts
from shared_core.values import Message, Outcome, Request

ASKED = Request((Message("system", "Be brief."), Message("user", "heat it")), "heat it")
TALK = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "heat it"))
ANSWERED = Outcome("climate set")


def why_not(request=ASKED, outcome=ANSWERED, arm="large"):
    return refusal(Candidate(request, outcome, arm == "large"), RULES)


def test_a_clean_answer_of_the_reference_is_admitted():
    assert why_not() == ""


@pytest.mark.parametrize(
    ("request_changes", "outcome_changes", "reason"),
    [
        ({"store": False}, {}, "no_store"),
        ({}, {"finished": False}, "unfinished"),
        ({}, {"tool_calls": True}, "tool_calls"),
        ({"query": " \n"}, {}, "empty_query"),
        ({}, {"answer": "\t"}, "empty_answer"),
        ({"messages": TALK}, {}, "history"),
        ({"messages": (Message("user", "what is this?", extra='{"image":"…"}'),)}, {}, "not_text"),
        ({}, {"answer": "half an emoji \ud83d"}, "not_unicode"),
        ({"query": "\udc00"}, {}, "not_unicode"),
    ],
)
def test_each_refusal_has_its_reason(request_changes, outcome_changes, reason):
    request, outcome = replace(ASKED, **request_changes), replace(ANSWERED, **outcome_changes)
    assert why_not(request, outcome) == reason
    assert why_not(request, outcome, arm="small") == reason


def test_a_later_turn_is_admitted_if_the_query_stands_for_the_whole_conversation():
    assert why_not(replace(ASKED, messages=TALK, condensed=True)) == ""


def test_marks_on_a_system_message_do_not_stand_in_the_way():
    marked = replace(ASKED, messages=(Message("system", "Be brief.", extra='{"cache":1}'), Message("user", "heat it")))
    assert why_not(marked) == ""


def test_another_arms_answer_has_to_wait_for_feedback():
    assert why_not(arm="small") == "untrusted"


def test_an_example_carries_what_it_was_made_of():
    texts, vector = Texts("heat it", "climate sét"), np.array([1, 0], dtype=np.float32)
    example = example_of(texts, vector, scope="me", task="t", source="traffic", writer="big", now=7.0, exact_key="k")
    entry = example.entry
    assert (entry.scope, entry.task, entry.source, entry.writer) == ("me", "t", "traffic", "big")
    assert (entry.created_at, entry.exact_key, entry.size) == (7.0, "k", 7 + 12)
    assert entry.id == example_id("me", "t", "heat it")
    assert example.texts is texts
    assert example.vector is vector
    assert entry.statistics.quality.count == 0


def test_the_id_is_the_querys_own_within_scope_and_task():
    same = example_id("s", "t", "heat  the hall\n")
    assert same == example_id("s", "t", "heat the hall")
    others = {("s2", "t", "heat the hall"), ("s", "t2", "heat the hall"), ("s", "t", "Heat the hall"), ("st", "", "x")}
    assert len({same, *(example_id(*other) for other in others)}) == 5


def test_redaction_is_applied_to_the_text():
    assert redacted("call Ann", lambda text: text.replace("Ann", "NAME")) == "call NAME"
    assert redacted("call Ann", None) == "call Ann"


def test_redaction_that_fails_lets_nothing_through_and_says_nothing_of_the_text():
    def broken(text):
        raise KeyError(text)

    with pytest.raises(RedactionFailed, match="redact raised KeyError") as caught:
        redacted("secret", broken)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    with pytest.raises(RedactionFailed, match="redact must return str, not NoneType"):
        redacted("secret", lambda text: None)


def test_a_named_speaker_may_ask():
    named = replace(ASKED, messages=(Message("user", "heat it", extra='{"name":"bob"}'),))
    assert why_not(named) == ""


def test_the_first_rule_that_refuses_gives_its_name():
    rules = [Rule("never", lambda candidate: False), Rule("short", lambda c: len(c.outcome.answer) < 3), *RULES]
    assert refusal(Candidate(ASKED, Outcome("ok"), False), rules) == "short"
    assert refusal(Candidate(ASKED, Outcome("fine"), False), rules) == "untrusted"
    assert refusal(Candidate(ASKED, Outcome("fine"), True), rules) == ""
