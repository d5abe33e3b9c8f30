"""What is read from LangChain's `llm_string`, taken from real models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from iccache_langchain.llm_string import parse


class Weather(BaseModel):
    city: str


def model(**kwargs):
    defaults = {"model": "big", "api_key": "sk-secret", "base_url": "http://127.0.0.1:9/v1"}
    return ChatOpenAI(**(defaults | kwargs))


def string(llm, stop=None, **kwargs):
    return llm._get_llm_string(stop=stop, **kwargs)  # what LangChain itself hands to the cache


def test_the_writer_is_the_models_name():
    assert parse(string(model())).writer == "big"


def test_a_model_named_for_this_call_wins():
    assert parse(string(model(), model="other")).writer == "other"


@pytest.mark.parametrize("text", ["", "Sample LLM string configuration.", "{}---", "---", "[1, 2]", "5", "{1: 2}---[]"])
def test_what_cannot_be_read_is_neither_plain_nor_of_a_known_writer(text):
    call = parse(text)
    assert (call.writer, call.fingerprint == text or "---" in text) == ("", True)


def test_an_unreadable_string_is_not_plain():
    assert not parse("Sample LLM string configuration.").plain


@pytest.mark.parametrize(
    "kwargs", [{}, {"temperature": 0.9, "max_tokens": 7}, {"model": "other"}, {"n": 1}, {"seed": 3}]
)
def test_sampling_parameters_are_plain(kwargs):
    assert parse(string(model(), **kwargs)).plain


@pytest.mark.parametrize(
    "kwargs",
    [
        {"stop": ["\n"]},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        {"response_format": Weather},
        {"extra_body": {"guided_json": {}}},
        {"an_option_of_next_year": True},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_a_call_bound_to_a_form_is_not_plain(kwargs):
    assert not parse(string(model(), **kwargs)).plain


@pytest.mark.parametrize(
    "settings",
    [{"n": 2}, {"stop": ["x"]}, {"model_kwargs": {"response_format": {"type": "json_object"}}}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_model_bound_to_a_form_is_not_plain(settings):
    assert not parse(string(model(**settings))).plain


def test_the_fingerprint_tells_calls_apart():
    calls = [
        {},
        {"temperature": 0.9},
        {"model": "other"},
        {"stop": ["x"]},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": Weather},
    ]
    fingerprints = {parse(string(model(), **kwargs)).fingerprint for kwargs in calls}
    fingerprints |= {
        parse(string(model(**kwargs))).fingerprint for kwargs in ({"base_url": "http://h/v1"}, {"top_p": 0.1})
    }
    assert len(fingerprints) == len(calls) + 2


def test_timeouts_and_retries_do_not_change_the_fingerprint():
    patient = model(timeout=60, max_retries=7, stream_usage=True)
    assert parse(string(patient)).fingerprint == parse(string(model())).fingerprint


def test_the_api_key_is_nowhere():
    assert "sk-secret" not in parse(string(model())).fingerprint


def test_a_model_that_is_not_serialisable():
    call = parse("[('_type', 'my-model'), ('model_name', 'mine'), ('stop', None), ('temperature', 0.7)]")
    assert (call.writer, call.plain) == ("mine", True)
    assert not parse("[('model_name', 'mine'), ('stop', ['x'])]").plain
    assert not parse("[('model_name', 'mine'), ('tools', [{}])]").plain


def test_an_object_known_by_its_address_is_not_repeatable():
    llm = FakeListChatModel(responses=["a"], cache=InMemoryCache())
    assert parse(string(llm)).repeatable
    assert not parse(string(llm, callback=object())).repeatable


def test_a_separator_within_the_model_does_not_mislead():
    call = parse(string(model(model="a---b"), temperature=0.1))
    assert (call.writer, call.plain) == ("a---b", True)


@given(st.text() | st.from_regex(r"(\{.*\})?---\[\(.*\)\]", fullmatch=True))
def test_it_never_raises(text):
    parse(text)
