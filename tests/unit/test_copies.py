"""Copies of a surface share its engine and do not close it; what holds an open store says that it cannot be pickled."""

import copy
import pickle

import pytest
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import MockLLM
from pydantic import BaseModel

import iccache_langchain
import iccache_llamaindex
from iccache_langchain import (
    ChatFromModel,
    HuggingFaceModel,
    ICCache,
    ICCacheCallbackHandler,
    ICCacheChatModel,
    ICCacheExampleSelector,
    ICCacheMiddleware,
    OpenAIModel,
)
from iccache_llamaindex import ICCacheEventHandler, ICCacheLLM, ICCachePostprocessor, LLMFromModel, with_examples
from shared_core.engine import Engine
from shared_core.errors import CannotBePickled, ICCacheError
from tests.embedding import Words

PLACE = {"scope": "default", "task": "t"}


def routing(surface, small, large):
    options = {"costs": {"small": 0.1}, "store": "memory://", "embedder": Words(), "background": False}
    return lambda: surface(arms={"small": small, "large": large}, reference="large", **options)


def over_memory(surface):
    return lambda: surface("memory://", embedder=Words())


FAKE = FakeListChatModel(responses=["fine"])
ROUTERS = {
    ICCacheChatModel: routing(ICCacheChatModel, FAKE, FAKE),
    ICCacheLLM: routing(ICCacheLLM, MockLLM(), MockLLM()),
    ICCacheMiddleware: routing(ICCacheMiddleware, FAKE, None),
}
PICKLED = {ICCachePostprocessor: over_memory(ICCachePostprocessor)}  # its configuration is
UNPICKLED = ROUTERS | {
    surface: over_memory(surface)
    for surface in (ICCache, ICCacheCallbackHandler, ICCacheEventHandler, ICCacheExampleSelector)
}


@pytest.fixture
def owner(request):
    made = request.param()
    yield made
    made.close()


every = pytest.mark.parametrize("owner", (UNPICKLED | PICKLED).values(), ids=lambda make: "", indirect=True)
unpickled = pytest.mark.parametrize("owner", UNPICKLED.values(), ids=lambda make: "", indirect=True)


def copies(owner):
    made = [copy.copy(owner), copy.deepcopy(owner), copy.deepcopy([owner])[0]]
    return made + ([owner.model_copy(), owner.model_copy(deep=True)] if isinstance(owner, BaseModel) else [])


@every
def test_a_copy_shares_the_engine_and_does_not_close_it(owner):
    for number, handle in enumerate(copies(owner)):
        assert handle is not owner and type(handle) is type(owner)
        assert handle.engine is owner.engine
        handle.engine.add_examples([(f"from copy {number}", "yes")], **PLACE)
        handle.close()
        owner.engine.add_examples([(f"from owner {number}", "yes")], **PLACE)


@pytest.mark.parametrize("owner", [ROUTERS[ICCacheChatModel]], indirect=True)
def test_a_copied_chat_model_answers(owner):
    for handle in copies(owner):
        assert handle.invoke("How?").content == "fine"
    assert owner.model_copy(update={"scope": "acme"}).scope == "acme"
    assert owner.scope is None


@unpickled
def test_what_holds_an_open_store_says_what_to_do_instead(owner):
    kind = type(owner).__name__
    says = (
        f"^an {kind} cannot be pickled, because it holds an open store; build it in each process, with the same store="
    )
    with pytest.raises(CannotBePickled, match=says) as caught:
        pickle.dumps(owner)
    assert isinstance(caught.value, ICCacheError) and isinstance(caught.value, TypeError)
    assert caught.value.__context__ is None
    with pytest.raises(CannotBePickled, match="^an Engine cannot be pickled"):
        pickle.dumps(owner.engine)


async def test_an_engine_is_shared_by_copies_of_what_holds_it():
    engine = Engine(store="memory://", embedder=Words(), background=False)
    prepared = copy.deepcopy(await with_examples(engine, "How?"))
    assert prepared.engine is engine
    assert copy.copy(engine) is engine
    engine.close()


@pytest.mark.parametrize(
    "model",
    [
        OpenAIModel("http://127.0.0.1:9/v1", "m", api_key="sk-SECRET"),
        HuggingFaceModel("no/such-model"),
        iccache_langchain.as_model(FakeListChatModel(responses=["a"])),
        iccache_llamaindex.as_model(MockLLM()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_are_shared_by_copies_and_not_pickled(model):
    for arm in (ChatFromModel(model), LLMFromModel(model)):
        assert copy.deepcopy(arm).model is arm.model_copy(deep=True).model is model
    for one in (model, ChatFromModel(model)):
        with pytest.raises(
            CannotBePickled, match="Model cannot be pickled, because it holds .*; build it in each"
        ) as caught:
            pickle.dumps(one)
        assert "SECRET" not in str(caught.value)
    says = "^a LLMFromModel cannot be pickled, because its model cannot be; build it in each process$"
    with pytest.raises(CannotBePickled, match=says):  # LlamaIndex would leave the model out
        pickle.dumps(LLMFromModel(model))
