"""What `ICCachePostprocessor` is made of: its configuration, its order of documents, its secrets."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from iccache_llamaindex import ICCachePostprocessor, ICCacheSettings, without_examples
from iccache_llamaindex.question import install, listen
from iccache_llamaindex.rerank import by_support, support
from llama_index.core.instrumentation import get_dispatcher
from shared_core.adapters.context import iccache_context
from shared_core.adapters.requests import default_task
from shared_core.store.address import masked, unmasked
from shared_core.errors import ConfigurationError
from shared_core.values import ScoredExample
from tests.embedding import Words
from tests.servers import RedisServer

TASK = default_task(())
PATIENT = ICCacheSettings(deadline=20, relevance_quantile=0.0)


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]


def with_pool(store="memory://", **arguments):
    examples = ICCachePostprocessor(store, embedder=Words(), settings=PATIENT, **arguments)
    examples.engine.warm("default")
    examples.engine.add_examples([("stop the pump", "press STOP")], scope="default", task=TASK)
    return examples


def test_class():
    names = [base.__name__ for base in ICCachePostprocessor.__mro__]
    assert BaseNodePostprocessor.__name__ in names


class TestConfiguration:
    def test_round_trip(self, tmp_path):
        examples = ICCachePostprocessor(
            f"sqlite:///{tmp_path}/pool.db", embedder=Words(), mode="both", show="turns", keep_sources=True, scope="acme",
            task="manual", settings=ICCacheSettings(example_tokens=77),
        )  # fmt: skip
        data = examples.to_dict()
        again = ICCachePostprocessor.from_dict(data, embedder=Words())
        assert again.to_dict() == data
        assert again.settings.example_tokens == again.engine.settings.example_tokens == 77
        assert ICCachePostprocessor.from_json(examples.to_json(), embedder=Words()).to_dict() == data

    def test_pickle_opens_the_store_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr("shared_core.adapters.factory.default_embedder", Words)
        examples = ICCachePostprocessor(f"sqlite:///{tmp_path}/pool.db", settings=PATIENT)
        examples.engine.add_examples([("stop the pump", "press STOP")], scope="default", task=TASK)
        again = pickle.loads(pickle.dumps(examples))
        assert again.engine is not examples.engine
        again.engine.warm("default")
        assert len(again.postprocess_nodes([], query_str="the pump")) == 1

    def test_a_copy_shares_the_engine(self):
        examples = with_pool()
        assert copy.deepcopy(examples).engine is examples.engine
        assert copy.copy(examples).engine is examples.engine

    def test_no_password_leaves(self):
        with RedisServer(requirepass="hunter2") as redis:
            url = redis.url("pool", password="hunter2")
            examples = ICCachePostprocessor(url, embedder=Words())
            texts = (examples.to_dict(), examples.to_json(), repr(examples), str(examples), examples.model_dump())
            assert not any("hunter2" in str(text) for text in texts)
            assert b"hunter2" not in pickle.dumps(examples)
            with pytest.raises(ConfigurationError, match="password was left out"):
                ICCachePostprocessor.from_dict(examples.to_dict(), embedder=Words())
            with pytest.raises(ConfigurationError, match="password was left out"):
                pickle.loads(pickle.dumps(examples))
            again = ICCachePostprocessor.from_dict(examples.to_dict(), store=url, embedder=Words())
            assert again.engine.add_examples([("stop the pump", "press STOP")], scope="default", task=TASK)
            again.close()
            examples.close()

    def test_a_shared_engine_has_to_be_given_again(self):
        examples = with_pool()
        data = ICCachePostprocessor(engine=examples.engine, scope="acme").to_dict()
        with pytest.raises(ConfigurationError, match="engine="):
            ICCachePostprocessor.from_dict(data)
        again = ICCachePostprocessor.from_dict(data, engine=examples.engine)
        assert (again.engine, again.scope) == (examples.engine, "acme")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"scope": ""}, "scope"),
            ({"scope": "a", "strict_scope": True}, "strict_scope"),
            ({"mode": "sometimes"}, "mode"),
            ({"store": "nowhere://"}, "scheme"),
        ],
    )
    def test_contradictions_are_refused(self, arguments, says):
        with pytest.raises(ValueError, match=says):
            ICCachePostprocessor(**({"store": "memory://", "embedder": Words()} | arguments))


class TestNodes:
    def test_documents_go_on_as_they_are(self):
        given = nodes("a", "b")
        before = list(given)
        got = with_pool().postprocess_nodes(given, query_str="the pump")
        assert given == before
        assert got[:2] == given
        assert got[2].score == pytest.approx(max(0, got[2].score))
        assert without_examples(got) == given

    @pytest.mark.parametrize("query", [None, "", "  "])
    def test_without_a_question_nothing_happens(self, query):
        examples = with_pool()
        given = nodes("a")
        assert examples.postprocess_nodes(given, query_str=query) == given
        assert examples.counters["fallback"] == 0

    def test_strict_scope_leaves_queries_without_scope_alone(self):
        examples = with_pool(strict_scope=True)
        assert examples.postprocess_nodes([], query_str="the pump") == []
        assert examples.counters["bypass.no_scope"] == 1
        with iccache_context(scope="default"):
            assert len(examples.postprocess_nodes([], query_str="the pump")) == 1

    def test_the_words_of_a_retriever_tool_are_left_out(self):
        examples = with_pool()
        (tool,) = examples.postprocess_nodes([], query_str="\ninput is stop the pump\n")
        assert tool.score == pytest.approx(1.0, abs=1e-3)


def example(answer, utility=1.0):
    return ScoredExample("id", utility, utility, "query", answer)


class TestSupport:
    def test_what_all_documents_share_tells_nothing(self):
        texts = ["The manual says: open valve seven.", "The manual says: close the door."]
        assert by_support(texts, [example("The manual says")]) == [0, 1]
        assert by_support(texts, [example("close the door")]) == [1, 0]

    def test_utility_weighs(self):
        texts = ["open valve seven", "close the door"]
        assert by_support(texts, [example("open valve seven", 0.2), example("close the door", 0.9)]) == [1, 0]

    def test_languages_without_spaces(self):
        assert by_support(["电梯每天都要检查。", "水泵启动前先打开七号阀门。"], [example("先打开七号阀门")]) == [1, 0]

    @given(st.lists(st.text(max_size=40), max_size=6), st.lists(st.text(max_size=40), max_size=3))
    def test_an_order_of_all_with_support_in_the_unit_interval(self, texts, answers):
        examples = [example(answer) for answer in answers]
        assert sorted(by_support(texts, examples)) == list(range(len(texts)))
        assert all(0.0 <= value <= 1.0 + 1e-9 for value in support(texts, examples))

    @given(st.lists(st.text(max_size=40), max_size=6))
    def test_without_examples_the_retriever_stands(self, texts):
        assert by_support(texts, []) == list(range(len(texts)))


class TestSecrets:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://u:p@h:1/0?pool=x", "redis://u:***@h:1/0?pool=x"),
            ("rediss://:p@h", "rediss://:***@h"),
            ("redis://u:p%40/x@h", "redis://u:***@h"),
            ("unix:///s.sock?db=1&password=p&pool=x", "unix:///s.sock?db=1&password=***&pool=x"),
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://u@h:1/0", "redis://u@h:1/0"),
            ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
            ("memory://", "memory://"),
        ],
    )
    def test_masked(self, url, shown):
        assert masked(url) == shown
        assert unmasked(url) == url
        if url != shown:
            with pytest.raises(ConfigurationError):
                unmasked(shown)


def test_listeners_are_installed_once():
    listen()
    before = len(get_dispatcher().event_handlers)
    listen()
    assert len(get_dispatcher().event_handlers) == before
    assert callable(install)
