"""Which answers behind `ICCache` become examples."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import OpenAI

from iccache_langchain import ICCacheChatModel
from iccache_langchain.cache import ICCache
from iccache_langchain.messages import normalised
from shared_core.adapters.context import Context
from shared_core.adapters.requests import build_request
from shared_core.settings import Settings
from tests.integration.langchain_cache.calls import PATIENT, model
from tests.integration.langchain_cache.filled import NEAR, TOPICS, words
from tests.openai_server import Reply


class TestExamples:
    def admitted(self, server, url, ask, **kwargs):
        cache = ICCache(url, embedder=words, settings=PATIENT, **kwargs)
        ask(cache)
        assert cache.engine.flush()
        counters = cache.counters
        cache.close()
        return counters["admitted"]

    def test_plain_answers_become_examples(self, server, url):
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi")) == 1

    def test_none_without_an_embedder(self, llm, cache):
        llm.invoke("hi")
        assert cache.engine.flush()
        assert cache.counters.snapshot() == {"lookup.miss": 1}

    def test_only_the_references_with_a_reference_named(self, server, url):
        def ask(cache):
            model(server, cache, "other").invoke("hi")
            model(server, cache, "big").invoke("ho", model="other")
            model(server, cache, "other").invoke("hu", model="big")

        assert self.admitted(server, url, ask, reference="big") == 1

    def test_not_the_small_models_own(self, server, url):
        small = model(server, None, "small")
        ask = lambda cache: model(server, cache, "small").invoke("hi")
        assert self.admitted(server, url, ask, answer_with=small) == 0

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"stop": ["x"]},
            {"n": 2},
            {"response_format": {"type": "json_object"}},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "none"},
            {"logit_bias": {}},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_no_answer_that_is_bound_to_a_form(self, server, url, kwargs):
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi", **kwargs)) == 0

    def test_no_completion(self, server, url):
        def ask(cache):
            OpenAI(model="old", base_url=server.url, api_key="none", max_retries=0, cache=cache).invoke("Once upon")

        assert self.admitted(server, url, ask) == 0

    def test_no_answer_that_was_cut(self, server, url):
        server.answer = lambda _: Reply("and then", finish_reason="length")
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi")) == 0

    def test_a_later_turn_only_if_the_query_condenses_it(self, server, url, tmp_path):
        turns = [HumanMessage("Weather in Ulm?"), AIMessage("Sun."), HumanMessage("And tomorrow?")]
        ask = lambda cache: model(server, cache).invoke(turns)
        assert self.admitted(server, url, ask) == 0
        condense = lambda messages: " ".join(m.text for m in messages if m.type == "human")
        assert self.admitted(server, f"sqlite:///{tmp_path}/other.db", ask, query_fn=condense) == 1

    def test_redaction_keeps_what_it_changes_out_of_the_exact_tier(self, server, url, tmp_path):
        redact = lambda text: text.replace("4711", "[number]")
        ask = lambda cache: [model(server, cache).invoke("my account is 4711") for _ in range(2)]
        assert self.admitted(server, url, ask, redact=redact) == 1
        assert server.count() == 2
        assert b"4711" not in (tmp_path / "pool.db").read_bytes()

    def test_the_chat_models_pool_is_the_same(self, server, url):
        cache = ICCache(url, embedder=words, settings=PATIENT)
        messages = [SystemMessage("Be brief."), HumanMessage("boil two eggs in hot water")]
        for question in TOPICS:
            model(server, cache).invoke([messages[0], HumanMessage(question)])
        assert cache.engine.flush()
        cache.close()
        router = ICCacheChatModel(
            arms={"small": model(server, None, "small"), "large": model(server, None, "big")},
            reference="large",
            costs={"small": 0.1},
            store=url,
            embedder=words,
            settings=Settings(deadline=20, relevance_quantile=1.0),
            background=False,
        )
        router.engine.warm("default")
        decision = router.engine.decide(build_request(normalised([messages[0], HumanMessage(NEAR)]), context=Context()))
        assert [e.query for e in decision.selection.for_arm("small")] == ["boil two eggs in hot water"]
        router.engine.close()
