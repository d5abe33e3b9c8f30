"""The JSON codec of generations: exact round trips, and bytes that are not ours."""

import json
import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation, GenerationChunk
from pydantic import BaseModel, Field, field_validator

from iccache_langchain.generations import MAX_BYTES, MAX_DEPTH, CannotBeRead, CannotBeStored, decode, encode


class Weather(BaseModel):
    city: str
    celsius: float


def chat(**kwargs):
    return ChatGeneration(message=AIMessage(**kwargs), generation_info={"finish_reason": "stop"})


def test_several_plain_generations_with_info():
    generations = [Generation(text="one", generation_info={"reason": "test"}), Generation(text="")]
    assert decode(encode(generations)) == generations


def test_a_message_keeps_everything_but_its_id():
    generation = chat(
        content=[{"type": "text", "text": "Größe ☂"}, {"type": "reasoning", "reasoning": "…"}],
        id="lc_run--1",
        name="bob",
        additional_kwargs={"refusal": None, "lc": 1},
        response_metadata={"model_name": "big", "logprobs": {"content": [{"token": "a", "logprob": -0.25}]}},
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    )
    [back] = decode(encode([generation]))
    assert back.message.id is None
    assert back.message == generation.message.model_copy(update={"id": None})
    assert back.generation_info == generation.generation_info
    assert back.text == generation.text


def test_tool_calls_come_back_as_tool_calls():
    generation = chat(
        content="",
        tool_calls=[{"id": "c1", "name": "f", "args": {"x": [1, {"y": None}]}}],
        invalid_tool_calls=[{"id": "c2", "name": "g", "args": "{", "error": "bad", "type": "invalid_tool_call"}],
    )
    [back] = decode(encode([generation]))
    assert back.message.tool_calls == generation.message.tool_calls
    assert back.message.invalid_tool_calls == generation.message.invalid_tool_calls


def test_a_parsed_object_comes_back_as_a_dict():
    generation = chat(content="{}", additional_kwargs={"parsed": Weather(city="Ulm", celsius=-3.5)})
    [back] = decode(encode([generation]))
    assert back.message.additional_kwargs == {"parsed": {"city": "Ulm", "celsius": -3.5}}


def test_chunks_of_text_come_back_as_generations():
    assert decode(encode([GenerationChunk(text="a")])) == [Generation(text="a")]


def test_decoding_twice_shares_nothing():
    data = encode([chat(content=["a", {"type": "text", "text": "b"}], additional_kwargs={"k": {"n": [1]}})])
    [first], [second] = decode(data), decode(data)
    first.message.additional_kwargs["k"]["n"].append(2)
    first.message.content.append("c")
    assert second.message.additional_kwargs == {"k": {"n": [1]}}
    assert len(second.message.content) == 2


@pytest.mark.parametrize(
    "generations",
    [
        [],
        [Generation(text="a", generation_info={"at": datetime(2026, 1, 1)})],
        [Generation(text="a", generation_info={"p": math.nan})],
        [Generation(text="x" * (MAX_BYTES + 1))],
        [ChatGeneration(message=HumanMessage("I am no answer"))],
    ],
    ids=["none", "not json", "nan", "too big", "not an AIMessage"],
)
def test_what_would_not_come_back_is_refused(generations):
    with pytest.raises(CannotBeStored):
        encode(generations)


def test_an_answer_nested_too_deep_is_refused():
    deep: object = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(CannotBeStored, match="deeper"):
        encode([Generation(text="a", generation_info={"deep": deep})])


def tampered(change):
    value = json.loads(encode([chat(content="hello"), Generation(text="a")]))
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe garbage",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"schema_version":1,"generations":[],"x":' + b"[" * 900 + b"]" * 900 + b"}",
        b" " * (MAX_BYTES + 1),
        dumps([Generation(text="a")]).encode(),
        tampered(lambda v: v.update(schema_version=2)),
        tampered(lambda v: v.update(schema_version="1")),
        tampered(lambda v: v.update(generations=[])),
        tampered(lambda v: v["generations"][0].update(surprise=1)),
        tampered(lambda v: v["generations"][1].update(text=None)),
        tampered(lambda v: v["generations"][1].update(text=7)),
        tampered(lambda v: v["generations"][0]["message"].update(content=7)),
        tampered(lambda v: v["generations"][0]["message"].pop("content")),
        tampered(lambda v: v["generations"][0]["message"].update(tool_calls=[{"name": 3}])),
        tampered(lambda v: v["generations"][0]["message"].update(lc=1, type="constructor")),
    ],
)
def test_bytes_that_are_not_ours_are_refused(data):
    with pytest.raises(CannotBeRead):
        decode(data)


def test_nothing_that_looks_like_a_constructor_is_built():
    bait = {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "HumanMessage"], "kwargs": {}}
    [back] = decode(encode([chat(content="a", additional_kwargs={"bait": bait})]))
    assert back.message.additional_kwargs == {"bait": bait}


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data):
    with pytest.raises(CannotBeRead):
        decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.text(), st.none() | st.dictionaries(st.text(), json_values, max_size=3)), min_size=1))
def test_every_text_and_every_json_info_round_trips(answers):
    generations = [Generation(text=text, generation_info=info) for text, info in answers]
    assert decode(encode(generations)) == generations


def test_a_parsed_object_comes_back_as_what_its_class_takes():
    class Person(BaseModel):
        full_name: str = Field(alias="fullName")

    [back] = decode(encode([chat(content="{}", additional_kwargs={"parsed": Person(fullName="Ada")})]))
    assert Person(**back.message.additional_kwargs["parsed"]) == Person(fullName="Ada")


def test_a_parsed_object_that_its_class_would_not_take_back_is_not_stored():
    class Odd(BaseModel):
        half: int

        @field_validator("half", mode="before")
        @classmethod
        def halved(cls, value):
            return value // 2

    with pytest.raises(CannotBeStored, match="Odd"):
        encode([chat(content="{}", additional_kwargs={"parsed": Odd(half=8)})])
