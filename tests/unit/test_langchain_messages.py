"""LangChain's messages as ours and back, and how an answer ended."""

from __future__ import annotations

import uuid

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from iccache_langchain.messages import decision_id_of, insert, normalised, outcome_of
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.values import Insertion, Message

CALL = {"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_roles_and_texts_are_kept_and_ids_and_usage_are_not():
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    plain = [SystemMessage("s"), HumanMessage("h"), AIMessage("a")]
    noisy = [
        SystemMessage("s", id="1"),
        HumanMessage([{"type": "text", "text": "h"}], id="2"),
        AIMessage("a", id="3", usage_metadata=usage, response_metadata={"x": 1}),
    ]
    assert normalised(noisy) == normalised(plain)
    assert [(m.role, m.text, m.extra) for m in normalised(plain)] == [
        ("system", "s", ""),
        ("user", "h", ""),
        ("assistant", "a", ""),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HumanMessage("x"), HumanMessage(["x", PICTURE])),
        (HumanMessage("x"), HumanMessage("x", name="bob")),
        (AIMessage(""), AIMessage("", tool_calls=[CALL])),
        (AIMessage("", tool_calls=[CALL]), AIMessage("", tool_calls=[{**CALL, "args": {"a": 2}}])),
        (ToolMessage("5", tool_call_id="c1"), ToolMessage("5", tool_call_id="c2")),
        (ToolMessage("5", tool_call_id="c1"), ToolMessage("5", tool_call_id="c1", status="error")),
        (ChatMessage("x", role="critic"), ChatMessage("x", role="author")),
    ],
)
def test_what_is_sent_beside_the_text_tells_turns_apart(one, other):
    assert normalised([one]) != normalised([other])


def test_named_roles_of_chat_messages_are_understood():
    roles = [m.role for m in normalised([ChatMessage("x", role=r) for r in ("developer", "user", "assistant", "tool")])]
    assert roles == ["system", "user", "assistant", "tool"]


def test_examples_are_put_where_they_belong_and_the_given_messages_stay_as_they_are():
    given = [SystemMessage("s"), HumanMessage("h")]
    placed = insert(given, Insertion(1, (Message("user", "q"), Message("assistant", "a"))))
    assert [(m.type, m.content) for m in placed] == [("system", "s"), ("human", "q"), ("ai", "a"), ("human", "h")]
    assert len(given) == 2


def test_a_rewrite_replaces_the_text_of_the_last_user_turn_only():
    given = [HumanMessage("a"), AIMessage("b"), HumanMessage(["c", PICTURE], id="7")]
    placed = insert(given, Insertion(rewrite="prompt"))
    assert placed[0].content == "a"
    assert placed[2].content == [{"type": "text", "text": "prompt"}, PICTURE]
    assert given[2].content == ["c", PICTURE]


@pytest.mark.parametrize(
    ("metadata", "finished"),
    [
        ({}, True),
        ({"finish_reason": "stop"}, True),
        ({"finish_reason": "STOP"}, True),
        ({"stop_reason": "end_turn"}, True),
        ({"done_reason": "stop"}, True),
        ({"finish_reason": "length"}, False),
        ({"finish_reason": "content_filter"}, False),
        ({"stop_reason": "max_tokens"}, False),
        ({"finish_reason": "something new"}, False),
    ],
)
def test_only_an_answer_that_ended_by_itself_is_finished(metadata, finished):
    assert outcome_of(AIMessage("x", response_metadata=metadata)).finished is finished


def test_an_outcome_names_its_writer_and_counts_tokens():
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    outcome = outcome_of(AIMessage("x", usage_metadata=usage, response_metadata={"model_name": "m"}))
    assert (outcome.answer, outcome.writer, outcome.prompt_tokens, outcome.completion_tokens) == ("x", "m", 3, 2)
    assert not outcome.tool_calls
    assert outcome_of(AIMessage("", tool_calls=[CALL])).tool_calls


def test_a_decision_is_found_by_message_run_or_id():
    run = uuid.uuid4()
    assert decision_id_of(AIMessage("x", response_metadata={"iccache": {"decision_id": "d"}})) == "d"
    assert decision_id_of(run) == decision_id_of(str(run)) == decision_id_of(run.hex) == run.hex
    with pytest.raises(NotFromICCache, match="did not come through IC-Cache"):
        decision_id_of(AIMessage("x"))


@pytest.mark.parametrize("given", [None, 7, "", "sk-SECRET is the answer"])
def test_what_names_no_answer_is_refused_and_not_quoted(given):
    with pytest.raises(ConfigurationError, match="32 hex digits; pass the answer itself") as refused:
        decision_id_of(given)
    assert "SECRET" not in str(refused.value)


def test_a_speakers_name_is_not_a_picture():
    [named, picture] = normalised(
        [
            HumanMessage("hi", name="bob"),
            HumanMessage(
                [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}], name="bob"
            ),
        ]
    )
    assert named.is_text
    assert not picture.is_text


def test_calls_in_openais_older_form_tell_turns_apart():
    def called(arguments):
        return AIMessage("", additional_kwargs={"function_call": {"name": "heat", "arguments": arguments}})

    one, other = normalised([called("1"), called("2")])
    assert one != other


@pytest.mark.parametrize("name", ["name", "audio", "function_call"])
def test_what_is_sent_of_the_additional_kwargs_tells_turns_apart(name):
    one, other = normalised([AIMessage("", additional_kwargs={name: {"id": n}}) for n in "12"])
    assert one != other
