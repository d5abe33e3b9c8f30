"""What `ICCacheMiddleware` refuses when it is built, and how it treats what an agent hands it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel, ParrotFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.types import Command

from iccache_langchain import ICCacheChatModel, ICCacheMiddleware
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from tests.embedding import Words

ROOT = Path(__file__).parents[2]


@pytest.fixture
def build():
    made = []

    def make(**wanted):
        arguments = {
            "arms": {"small": ParrotFakeChatModel(), "large": None},
            "reference": "large",
            "costs": {"small": 0.1},
            "store": "memory://",
            "embedder": Words(),
            "background": False,
            "deadline": 20.0,
        }
        made.append(ICCacheMiddleware(**(arguments | wanted)))
        return made[-1]

    yield make
    for middleware in made:
        middleware.close()


def router():
    return ICCacheChatModel(
        arms={"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()},
        reference="large",
        costs={"small": 0.1},
        store="memory://",
        embedder=Words(),
        background=False,
    )


def asked(*messages, model=None, **wanted):
    return ModelRequest(model=model or ParrotFakeChatModel(), messages=list(messages), **wanted)


def responding(request):
    return ModelResponse(result=[AIMessage("answer")])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"reference": "huge"}, "huge.*not one of the arms"),
        ({"arms": [ParrotFakeChatModel()]}, "arms is a list; pass a dict"),
        ({"arms": {"large": None}}, "at least two"),
        ({"arms": {"small": None, "large": None}}, "only one arm may be None"),
        ({"arms": {"small": FakeListLLM(responses=["x"]), "large": None}}, "small.*FakeListLLM.*not a chat model"),
        ({"arms": {"small": ParrotFakeChatModel().bind(stop=["x"]), "large": None}}, "small.*Binding"),
        ({"costs": None}, "costs is missing 'small'"),
        ({"styles": {"tiny": "paper"}}, "tiny"),
        ({"qualty_target": 0.5}, "ICCacheMiddleware takes no qualty_target; did you mean quality_target"),
        ({"quality_target": 2}, "quality_target"),
        ({"strict_scope": True, "scope": "a"}, "strict_scope"),
        ({"task": ""}, "task"),
    ],
)
def test_misuse_is_refused_when_it_is_built(build, wanted, says):
    with pytest.raises(ConfigurationError, match=f"(?s){says}"):
        build(**wanted)


def test_an_arm_that_routes_by_itself_is_refused(build):
    inner = router()
    with pytest.raises(ConfigurationError, match="small.*routes by itself"):
        build(arms={"small": inner, "large": None})
    inner.close()


def test_settings_may_be_given_one_by_one_or_together(build):
    middleware = build(settings=Settings(explore=0.3, seed=7), quality_target=0.5, deadline=3)
    settings = middleware.engine.settings
    assert (settings.explore, settings.seed, settings.quality_target, settings.deadline) == (0.3, 7, 0.5, 3)


def test_a_shared_engine_is_closed_by_its_owner(build):
    owner = build()
    sharing = ICCacheMiddleware(
        arms={"small": ParrotFakeChatModel(), "large": None}, reference="large", engine=owner.engine
    )
    sharing.close()
    owner.wrap_model_call(asked(HumanMessage("x")), responding)
    assert owner.flush(10)
    assert owner.engine.counters["admitted"] == 1
    with pytest.raises(ConfigurationError, match="store"):
        build(engine=owner.engine)


@pytest.mark.parametrize(
    "response",
    [
        AIMessage("answer"),
        ModelResponse(result=[AIMessage("answer"), ToolMessage("x", tool_call_id="1")], structured_response=7),
        ExtendedModelResponse(ModelResponse(result=[AIMessage("answer")]), Command(update={"seen": True})),
    ],
)
def test_every_kind_of_response_is_marked_in_a_copy(build, response):
    middleware = build()
    marked = middleware.wrap_model_call(asked(HumanMessage("x")), lambda request: response)
    assert type(marked) is type(response)
    assert mark(marked)["arm"] == "large"
    assert mark(response) is None
    if isinstance(response, ModelResponse):
        assert (marked.structured_response, marked.result[1:]) == (7, response.result[1:])
    if isinstance(response, ExtendedModelResponse):
        assert marked.command is response.command


def mark(response):
    if isinstance(response, ExtendedModelResponse):
        response = response.model_response
    message = response.result[0] if isinstance(response, ModelResponse) else response
    return message.response_metadata.get("iccache")


def test_the_request_and_its_model_are_left_as_they_were(build):
    middleware = build(task="t", relevance_quantile=0.0, explore=1.0, reward=lambda request, answer: 1.0)
    middleware.add_examples([("heat the kitchen", "climate kitchen")])
    own = ParrotFakeChatModel(metadata={"team": "a"})
    given = asked(HumanMessage("heat the kitchen"), model=own, system_message=SystemMessage("be brief"))
    sent = []

    def handler(request):
        sent.append(request)
        return responding(request)

    answer = middleware.wrap_model_call(given, handler)
    assert [m.text for m in sent[0].messages] == ["heat the kitchen", "climate kitchen", "heat the kitchen"]
    assert sent[0].system_message is given.system_message
    stamp = {"iccache_decision_id": mark(answer)["decision_id"], "iccache_arm": "small"}
    assert sent[0].model.metadata.items() >= stamp.items()
    assert [m.text for m in given.messages] == ["heat the kitchen"]
    assert given.model is own

    middleware.wrap_model_call(asked(HumanMessage("x"), ToolMessage("5", tool_call_id="1"), model=own), handler)
    assert sent[1].model.metadata["team"] == "a"
    assert not {"iccache_decision_id", "iccache_arm"} & own.metadata.keys()
    assert len(sent[1].messages) == 2


def test_tools_that_cannot_be_read_cost_no_answer(build):
    class Odd:
        def __str__(self):
            raise RuntimeError

    middleware = build()
    answer = middleware.wrap_model_call(asked(HumanMessage("x"), tools=[Odd()]), responding)
    assert mark(answer)["tier"] == "fallback"
    assert middleware.engine.counters["fallback.unreadable_call"] == 1


def test_a_model_that_may_stream_require_finish_reason_it_stopped(build):
    middleware = build()
    streaming = GenericFakeChatModel(messages=iter([]))
    middleware.wrap_model_call(asked(HumanMessage("x"), model=streaming), responding)
    middleware.wrap_model_call(asked(HumanMessage("y")), responding)
    assert middleware.flush(10)
    assert middleware.engine.counters.value("refused", reason="unfinished") == 1
    assert middleware.engine.counters["admitted"] == 1


def test_usage_with_costs_only_is_not_a_failure(build):
    answer = AIMessage("answer", usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2})
    answer.usage_metadata = {"total_cost": 0}  # what a hit of LangChain's own caches has
    assert mark(build().wrap_model_call(asked(HumanMessage("x")), lambda request: answer))["arm"] == "large"


def test_a_tenant_whose_name_is_none_does_not_share(build):
    class Runtime:
        context = {"iccache_scope": None}

    with pytest.raises(ConfigurationError, match="iccache_scope is None"):
        build().wrap_model_call(asked(HumanMessage("x"), runtime=Runtime()), responding)


def test_without_langchain_the_import_says_what_to_install():
    code = """
import sys
sys.modules["langchain"] = sys.modules["langchain.agents"] = None
import iccache_langchain
iccache_langchain.ICCacheMiddleware
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1].endswith("pip install 'iccache[agents]'")


def test_the_package_imports_agents_on_first_use():
    code = """
import sys
import iccache_langchain
assert not {"langchain", "langchain.agents", "langgraph"} & set(sys.modules)
assert not hasattr(iccache_langchain, "ICCacheNothing")
from iccache_langchain import ICCacheMiddleware
assert "langchain.agents" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
