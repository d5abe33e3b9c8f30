"""One request to `ICCacheChatModel`: what it is shown, where it goes, and what is kept of it."""

from __future__ import annotations

from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

from tests.integration.langchain_chat_model.calls import EXAMPLES, admitted, provenance, weather


def test_the_small_model_is_shown_what_the_large_one_answered(build, server):
    model = build()
    first = model.invoke([SystemMessage("be brief"), HumanMessage("heat the kitchen")])
    assert (first.content, provenance(first)["arm"]) == ("large answers", "large")
    assert model.flush(10)
    model.engine.maintain()
    second = model.invoke([SystemMessage("be brief"), HumanMessage("heat the bathroom")])
    assert (second.content, provenance(second)["arm"]) == ("small answers", "small")
    assert len(provenance(second)["examples"]) == 1
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the kitchen"),
        ("assistant", "large answers"),
        ("user", "heat the bathroom"),
    ]
    assert second.usage_metadata["input_tokens"] == 10  # the words of the examples count: the server charged for them
    assert second.response_metadata["model_name"] == "small"


def test_another_system_message_is_another_task(build):
    model = build()
    model.add_examples(EXAMPLES, system="be brief")
    asked = HumanMessage("heat the kitchen")
    assert provenance(model.invoke([SystemMessage("be brief"), asked]))["arm"] == "small"
    assert provenance(model.invoke([SystemMessage("be long"), asked]))["arm"] == "large"
    assert provenance(model.bind_tools([weather]).invoke([SystemMessage("be brief"), asked]))["arm"] == "large"


def test_a_tool_result_gets_no_examples_and_its_answer_becomes_none(helped, store):
    call = {"name": "weather", "args": {}, "id": "1", "type": "tool_call"}
    turns = [HumanMessage("heat the kitchen"), AIMessage("", tool_calls=[call]), ToolMessage("5", tool_call_id="1")]
    answer = helped.invoke(turns)
    assert provenance(answer)["examples"] == []
    assert helped.flush(10)
    assert store.count("default") == len(EXAMPLES)


def test_query_fn_condenses_a_conversation_and_its_failure_costs_no_answer(build, store, caplog):
    turns = [HumanMessage("the kitchen"), AIMessage("yes?"), HumanMessage("heat it")]
    model = build(query_fn=lambda messages: " ".join(str(m.content) for m in messages))
    model.invoke(turns)
    assert model.flush(10)
    assert store.count("default") == 1
    broken = build(query_fn=lambda messages: 1 / 0)
    for _ in range(2):
        assert broken.invoke(turns).content == "large answers"
    assert broken.engine.counters.value("bypass.query_fn_failed", error="ZeroDivisionError") == 2
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "query_fn" in r.getMessage()]
    assert "bypass.query_fn_failed: ZeroDivisionError at test_requests.py:" in warning


def test_a_call_that_names_its_model_is_not_routed_and_teaches_nothing(helped, store, server):
    answer = helped.invoke("heat the kitchen now", model="another")
    assert server.asked[-1].model == "another"
    assert provenance(answer)["reason"] == "the call names its own model"
    assert helped.flush(10)
    assert store.count("default") == len(EXAMPLES)


def test_an_argument_that_cannot_be_read_costs_no_answer(build, store):
    model = build(arms={"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()})
    endless: dict = {}
    endless["self"] = endless
    answer = model.invoke("heat the kitchen", extra=endless)
    assert answer.content == "heat the kitchen"
    assert provenance(answer)["tier"] == "fallback"
    assert model.engine.counters["fallback.unreadable_call"] == 1
    assert admitted(model, store) == 0


def test_several_answers_to_one_call_do_not_become_examples(build, store):
    model = build()
    result = model.generate([[HumanMessage("heat the kitchen")]], n=2)
    assert len(result.generations[0]) == 2
    assert model.flush(10)
    assert store.count("default") == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_defaults_go_out_with_every_call(build, server):
    model = build(temperature=0.3, stop=["END"])
    model.invoke("hello")
    assert (server.asked[-1].body["temperature"], server.asked[-1].body["stop"]) == (0.3, ["END"])
    model.invoke("hello", stop=["X"], temperature=0.9)
    assert (server.asked[-1].body["temperature"], server.asked[-1].body["stop"]) == (0.9, ["X"])


def test_a_completion_model_reads_the_conversation_as_text(build, server):
    small = OpenAI(base_url=server.url, api_key="none", model="small", max_retries=0)
    large = ChatOpenAI(base_url=server.url, api_key="none", model="large", max_retries=0)
    model = build(arms={"small": small, "large": large}, task="t")
    model.add_examples(EXAMPLES[:1])
    answer = model.invoke("heat the bathroom")
    assert (answer.content, answer.usage_metadata["output_tokens"]) == ("small answers", 2)
    assert server.asked[-1].query == "Human: heat the kitchen\nAI: climate kitchen\nHuman: heat the bathroom\nAI:"
    assert provenance(model.bind(tools=[{"type": "function"}]).invoke("heat the kitchen"))["arm"] == "large"
