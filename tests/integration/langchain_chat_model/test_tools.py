"""Tools and structured output through `ICCacheChatModel`."""

from __future__ import annotations

import pytest

from tests.integration.langchain_chat_model.calls import EXAMPLES, City, provenance, weather
from tests.openai_server import Reply, obliging


@pytest.fixture
def bound(build, server):
    """A router whose pool has examples for whatever is bound, since the task is named."""
    server.answer = obliging
    model = build(task="t")
    model.add_examples(EXAMPLES)
    return model


def test_tools_reach_whichever_arm_answers(bound, server):
    for asked, arm in (("heat the kitchen", "small"), ("zzz", "large")):
        bound.engine.clear("default") if arm == "large" else None
        answer = bound.bind_tools([weather], tool_choice="any").invoke(asked)
        assert provenance(answer)["arm"] == arm
        assert server.asked[-1].model == arm
        assert server.asked[-1].body["tool_choice"] == "required"
        assert [call["name"] for call in answer.tool_calls] == ["weather"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_honours_the_method(bound, server, method):
    if method == "json_mode":
        server.answer = lambda asked: Reply('{"name": "Rome"}')
    chain = bound.with_structured_output(City, method=method)
    assert isinstance(chain.invoke("heat the kitchen"), City)
    sent = server.asked[-1].body
    assert server.asked[-1].model == "small"
    kinds = {"json_schema": "json_schema", "json_mode": "json_object", "function_calling": None}
    assert sent.get("response_format", {}).get("type") == kinds[method]
    assert ("tools" in sent) == (method == "function_calling")
    raw = bound.with_structured_output(City, method=method, include_raw=True).invoke("heat the kitchen")
    assert isinstance(raw["parsed"], City)
    assert provenance(raw["raw"])["arm"] == "small"
