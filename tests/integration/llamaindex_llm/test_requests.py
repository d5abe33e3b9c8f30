"""One request to `ICCacheLLM`: what it is shown, where it goes, and what is kept of it."""

from __future__ import annotations

from uuid import UUID

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, MockLLM, TextBlock

from iccache_llamaindex import ICCacheRouteEvent
from shared_core.adapters import routing
from tests.integration.llamaindex_llm.calls import EXAMPLES, WAYS, admitted, ask, provenance, text, user


def test_the_small_model_is_shown_what_the_large_one_answered(build, server):
    model = build()
    brief = ChatMessage(role="system", content="be brief")
    first = model.chat([brief, user("heat the kitchen")])
    assert (text(first), provenance(first)["arm"]) == ("large answers", "large")
    assert model.flush(10)
    model.engine.maintain()
    second = model.chat([brief, user("heat the bathroom")])
    assert (text(second), provenance(second)["arm"]) == ("small answers", "small")
    assert len(provenance(second)["examples"]) == 1
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the kitchen"),
        ("assistant", "large answers"),
        ("user", "heat the bathroom"),
    ]
    assert second.raw.usage.prompt_tokens == 10  # the words of the examples count: the server charged for them
    assert "iccache" not in str(second.raw)


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_is_routed_shown_examples_recorded_and_explained(helped, server, heard, store, way):
    response = await ask(helped, way, "heat the kitchen now")
    assert (text(response), provenance(response)["arm"]) == ("small answers", "small")
    assert len(server.asked[-1].turns) == 2 * len(provenance(response)["examples"]) + 1
    assert server.asked[-1].query == "heat the kitchen now"
    assert helped.flush(10)
    (record,) = store.decisions([provenance(response)["decision_id"]]).values()
    assert (record.arm, record.completion_tokens) == ("small", 0 if "stream" in way else 2)
    told = [event.provenance for event in heard if isinstance(event, ICCacheRouteEvent)]
    assert told == [provenance(response)]


@pytest.mark.parametrize("way", WAYS)
async def test_a_clean_answer_of_the_reference_becomes_an_example(build, store, server, way):
    model = build()
    assert text(await ask(model, way, "heat the kitchen")) == "large answers"
    assert server.asked[-1].turns == [("user", "heat the kitchen")]
    assert admitted(model, store) == 1


async def test_every_way_of_calling_decides_alike(build, monkeypatch):
    model = build(task="t", explore=0.5)
    model.add_examples(EXAMPLES)
    seen = {}
    for way in WAYS:
        ids = iter(UUID(int=n) for n in range(12))
        monkeypatch.setattr(routing, "uuid4", lambda ids=ids: next(ids))
        seen[way] = [provenance(await ask(model, way, "heat the kitchen")) for _ in range(12)]
    assert {said["arm"] for said in seen["chat"]} == {"small", "large"}
    for way, said in seen.items():
        assert said == seen["chat"], way


def test_query_fn_condenses_a_conversation_and_its_failure_costs_no_answer(build, store):
    turns = [user("the kitchen"), ChatMessage(role="assistant", content="yes?"), user("heat it")]
    model = build(query_fn=lambda messages: " ".join(m.content for m in messages))
    model.chat(turns)
    assert admitted(model, store) == 1
    broken = build(query_fn=lambda messages: 1 / 0)
    assert text(broken.chat(turns)) == "large answers"
    assert broken.engine.counters.value("bypass.query_fn_failed", error="ZeroDivisionError") == 1


def test_a_later_turn_and_a_picture_become_no_example(build, store):
    model = build()
    model.chat([user("the kitchen"), ChatMessage(role="assistant", content="yes?"), user("heat it")])
    picture = ImageBlock(url="http://127.0.0.1/cat.png")
    asked = build(arms={"small": MockLLM(), "large": MockLLM()})
    asked.chat([ChatMessage(role="user", blocks=[TextBlock(text="what is this?"), picture])])
    assert admitted(model, store) == admitted(asked, store) == 0
    assert model.engine.counters.value("refused", reason="history") == 1
    assert asked.engine.counters.value("refused", reason="not_text") == 1


def test_a_call_that_names_its_model_is_not_routed_and_teaches_nothing(helped, store, server):
    answer = helped.chat([user("heat the kitchen now")], model="another")
    assert server.asked[-1].model == "another"
    assert provenance(answer)["reason"] == "the call names its own model"
    assert admitted(helped, store) == len(EXAMPLES)


def test_what_binds_an_answer_is_another_task(build, server):
    model = build()
    model.add_examples(EXAMPLES)
    asked = [user("heat the kitchen")]
    assert provenance(model.chat(asked, temperature=0.5))["arm"] == "small"
    assert provenance(model.chat(asked, stop=["END"]))["arm"] == "large"
    assert server.asked[-1].body["stop"] == ["END"]
    assert "iccache_scope" not in str(server.asked[-1].body)


def test_several_answers_to_one_call_do_not_become_examples(build, store):
    model = build()
    model.chat([user("heat the kitchen")], n=2)
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_a_completion_model_reads_the_conversation_as_text(build, arm, server):
    small = arm("small", is_chat_model=False, is_function_calling_model=False)
    model = build(arms={"small": small, "large": arm("large")}, task="t")
    model.add_examples(EXAMPLES[:1])
    for answer in (model.chat([user("heat the bathroom")]), model.complete("heat the bathroom")):
        assert (text(answer), provenance(answer)["arm"]) == ("small answers", "small")
        assert server.asked[-1].path == "completions"
        assert server.asked[-1].query == (
            "user: heat the kitchen\nassistant: climate kitchen\nuser: heat the bathroom\nassistant: "
        )
    assert not model.metadata.is_function_calling_model


def test_the_papers_prompt_is_a_completion(build, server, store):
    model = build(task="t", styles={"small": "paper"})
    model.add_examples(EXAMPLES)
    answer = model.complete("heat the kitchen now")
    assert len(server.asked[-1].turns) == 1
    assert "<past_answer>\nclimate kitchen" in server.asked[-1].query
    assert provenance(answer)["arm"] == "small"


def test_a_prompt_in_a_models_own_form_gets_no_examples(helped, store, server):
    answer = helped.complete("<|user|>heat the kitchen now", formatted=True)
    assert provenance(answer)["examples"] == []
    assert server.asked[-1].query == "<|user|>heat the kitchen now"
    assert admitted(helped, store) == len(EXAMPLES)
