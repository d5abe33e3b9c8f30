"""Whose a call is, what kind it is and what it asks, before any framework."""

from __future__ import annotations

import contextvars
import threading

import pytest

from shared_core.adapters.context import Context, current_context, iccache_context
from shared_core.adapters.requests import build_request, default_task, query_of
from shared_core.errors import ConfigurationError
from shared_core.values import DEFAULT_SCOPE, Message

ASKED = (Message("system", "be brief"), Message("user", "hello"))


def build(messages=ASKED, context=Context(), **more):
    return build_request(messages, context=context, **more)


def test_the_call_wins_over_the_context_and_the_context_over_the_default():
    call, around = Context(scope="call"), Context(scope="around", task="t")
    assert build(context=call.over(around), default_scope="d").scope == "call"
    assert build(context=Context().over(around), default_scope="d").scope == "around"
    assert build(default_scope="d").scope == "d"
    assert build().scope == DEFAULT_SCOPE
    assert call.over(around).task == "t"


def test_nobody_further_out_or_in_takes_no_store_back():
    assert not build(context=Context.read({"iccache_no_store": False}).over(Context(no_store=True))).store
    assert not build(context=Context(no_store=True).over(Context())).store
    assert build().store


def test_contexts_nest_and_end():
    with iccache_context(scope="a", task="t"):
        with iccache_context(scope="b", no_store=True):
            assert current_context() == Context("b", "t", True)
        assert current_context() == Context("a", "t")
    assert current_context() == Context()


def test_a_context_ends_when_its_block_fails():
    with pytest.raises(ZeroDivisionError), iccache_context(scope="a"):
        raise ZeroDivisionError
    assert current_context() == Context()


def test_a_context_follows_a_copied_context_into_a_thread_and_no_other():
    seen = []
    with iccache_context(scope="a"):
        copied = contextvars.copy_context()
        threads = [
            threading.Thread(target=lambda: seen.append(current_context().scope)),
            threading.Thread(target=lambda: copied.run(lambda: seen.append(current_context().scope))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [None, "a"]


@pytest.mark.parametrize("entries", [{"iccache_scope": None}, {"iccache_task": None}, {"iccache_scope": ""}, {"iccache_scope": 7}, {"iccache_no_store": "yes"}])  # fmt: skip
def test_a_scope_that_cannot_be_used_is_refused_rather_than_shared(entries):
    with pytest.raises(ConfigurationError):
        Context.read(entries)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("iccache_scop", "iccache_scope"), ("iccache_nostore", "iccache_no_store"), ("iccache_tsk", "iccache_task"), ("iccache_xyz", "pass iccache_no_store")],
)  # fmt: skip
def test_a_misspelt_key_is_refused_rather_than_ignored(key, meant):
    with pytest.raises(ConfigurationError, match=f"{key} is unknown.*{meant}"):
        Context.read({"iccache_scope": "acme", key: "x"})
    assert Context.read({"iccache_run_id": "r", "iccache_arm": "small", "other": 1, 2: "x"}) == Context()


def test_what_is_read_is_what_was_written():
    for context in (Context(), Context("a"), Context("a", "t", True)):
        assert Context.read(context.entries()) == context


def test_the_task_follows_system_message_and_form_unless_it_is_named():
    other = (Message("system", "be long"), ASKED[1])
    assert build().task == default_task(ASKED) == build((ASKED[0], Message("user", "else"))).task
    assert len({build().task, build(other).task, build(form="{tools}").task, build(ASKED[1:]).task}) == 4
    assert build(other, Context(task="t")).task == "t"


@pytest.mark.parametrize(
    ("turns", "query", "allowed"),
    [
        ([Message("user", "a"), Message("assistant", "b"), Message("user", "c")], "c", True),
        ([Message("user", "a"), Message("assistant", "", "{call}"), Message("tool", "5")], "", False),
        ([Message("user", "a"), Message("assistant", "b")], "", False),
        ([Message("user", "a"), Message("system", "s")], "a", True),
        ([Message("user", "what is this?", "{picture}")], "what is this?", False),
        ([Message("system", "s")], "", False),
    ],
)
def test_the_query_is_the_last_user_turn_if_it_is_the_last_turn(turns, query, allowed):
    request = build(turns)
    assert (request.query, request.examples_allowed, request.condensed) == (query, allowed, False)
    assert query_of(turns) == query


def test_a_query_of_the_users_own_condenses():
    request = build([Message("user", "a"), Message("assistant", "b"), Message("user", "c")], query="a and c")
    assert (request.query, request.condensed) == ("a and c", True)
