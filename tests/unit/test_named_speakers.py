"""A speaker's name is part of the exact key, and bars neither examples nor admission."""

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from iccache_langchain.messages import normalised as langchain
from iccache_llamaindex.messages import normalised as llamaindex
from shared_core.adapters.context import Context
from shared_core.adapters.requests import build_request
from shared_core.manager.admission import RULES, Candidate, refusal
from shared_core.values import Message, Outcome

TEXT = "heat the kitchen"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
BOB = {"additional_kwargs": {"name": "bob"}}


def request(messages):
    return build_request(messages, context=Context())


def why_not(asked):
    return refusal(Candidate(asked, Outcome("done"), is_trusted=True), RULES)


@pytest.mark.parametrize(
    ("named", "nameless"),
    [
        (langchain([HumanMessage(TEXT, name="bob")]), langchain([HumanMessage(TEXT)])),
        (langchain([HumanMessage(TEXT, **BOB)]), langchain([HumanMessage(TEXT)])),
        (llamaindex([ChatMessage(role="user", content=TEXT, **BOB)]), llamaindex([ChatMessage(content=TEXT)])),
    ],
    ids=["langchain", "langchain, older form", "llamaindex"],
)
def test_a_name_is_in_the_key_and_bars_nothing(named, nameless):
    asked, other = request(named), request(nameless)
    assert asked.exact_key != other.exact_key
    assert asked.task == other.task
    assert asked.examples_allowed
    assert why_not(asked) == ""


@pytest.mark.parametrize(
    "messages",
    [
        langchain([HumanMessage([TEXT, PICTURE], name="bob")]),
        llamaindex([ChatMessage(blocks=[TextBlock(text=TEXT), ImageBlock(url="http://h/a.png")], **BOB)]),
    ],
    ids=["langchain", "llamaindex"],
)
def test_a_picture_with_a_name_still_does(messages):
    asked = request(messages)
    assert not asked.examples_allowed
    assert why_not(asked) == "not_text"


@pytest.mark.parametrize("mark", ["once upon a time", "[" * 100_000, "7", '"name"'])
def test_an_extra_that_is_not_a_json_object_is_not_text(mark):
    assert not Message("user", "", extra=mark).is_text
