"""An argument of another kind is refused with its name, what was expected and the remedy; no framework's error shows."""

import re
import traceback

import pytest
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import MockLLM

import iccache_langchain
import iccache_llamaindex
from iccache_langchain import (
    Arm,
    Engine,
    ChatFromModel,
    HuggingFaceModel,
    ICCache,
    ICCacheCallbackHandler,
    ICCacheChatModel,
    ICCacheExampleSelector,
    ICCacheMiddleware,
    OpenAIModel,
)
from iccache_llamaindex import (
    ICCacheEventHandler,
    ICCacheFeedbackEvent,
    ICCacheLLM,
    ICCachePostprocessor,
    LLMFromModel,
    few_shot_prompt,
    with_examples,
)
from shared_core.errors import ConfigurationError, InvalidScore
from tests.embedding import Words
from tests.models import Scripted

SECRET = "redis://:hunter2@cache:6379/0"
MESSAGES = r"^messages must be a list of Message, such as \[Message\('user', 'How are you\?'\)\]; got a"


def chat(**given):
    arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
    return ICCacheChatModel(**routed(arms) | given)


def llm(**given):
    return ICCacheLLM(**routed({"small": MockLLM(), "large": MockLLM()}) | given)


def middleware(**given):
    return ICCacheMiddleware(**routed({"small": FakeListChatModel(responses=["s"]), "large": None}) | given)


def routed(arms):
    options = {"costs": {"small": 0.1}, "store": "memory://", "embedder": Words(), "background": False}
    return {"arms": arms, "reference": "large"} | options


def over_memory(surface):
    return lambda **given: surface("memory://", **{"embedder": Words()} | given)


CACHE, HANDLER, SELECTOR = (over_memory(s) for s in (ICCache, ICCacheCallbackHandler, ICCacheExampleSelector))
EVENTS, POSTPROCESSOR = over_memory(ICCacheEventHandler), over_memory(ICCachePostprocessor)
EVERY = [chat, llm, middleware, CACHE, HANDLER, SELECTOR, EVENTS, POSTPROCESSOR]


def refusal(call, **given):
    with pytest.raises(ConfigurationError) as caught:
        call(**given)
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert len(lines) < 40 and "pydantic" not in str(caught.value), lines
    return str(caught.value)


@pytest.mark.parametrize("surface", EVERY)
def test_shared_options_of_another_kind(surface):
    assert refusal(surface, engine=SECRET) == "engine is a str; pass the engine of a surface, such as llm.engine"
    assert refusal(surface, engine=3).startswith("engine is an int; pass")
    assert refusal(surface, settings=3) == (
        "settings is an int; pass ICCacheSettings(max_examples=3), or each setting as an argument of its own"
    )
    assert refusal(surface, settings=3, max_examples=2).startswith("settings is an int")
    assert refusal(surface, strict_scope="no") == "strict_scope is 'no'; pass True or False"
    assert refusal(surface, embedder=3).startswith("an int is not an embedder; give")


@pytest.mark.parametrize("surface", [one for one in EVERY if one is not POSTPROCESSOR])
def test_settings_are_not_a_dict(surface):
    assert refusal(surface, settings={"max_examples": 2}).startswith("settings is a dict; pass ICCacheSettings(")


@pytest.mark.parametrize(
    ("surface", "given", "says"),
    [
        (chat, {"background": "no"}, "background is 'no'; pass True or False"),
        (chat, {"query_fn": 3}, "query_fn is 3; it must be callable"),
        (chat, {"temperature": "hot"}, "temperature is 'hot'; it must be a valid number"),
        (chat, {"verbose": [1]}, "verbose is a list; it must be a valid boolean"),
        (llm, {"query_fn": 3}, "query_fn is 3; it must be callable"),
        (llm, {"callback_manager": 3}, "callback_manager is an int; pass CallbackManager([…])"),
        (middleware, {"query_fn": 3}, "query_fn is 3; pass a function from the messages to a text"),
        (CACHE, {"query_fn": 3}, "query_fn is 3; pass a function from the messages to a text"),
        (CACHE, {"reference": len}, "reference is a builtin_function_or_method; pass the name of a model"),
        (HANDLER, {"query_fn": 3}, "query_fn is 3; pass a function from the messages to a text"),
        (HANDLER, {"reference": 3}, "reference is 3; pass the name of a model"),
        (EVENTS, {"reference": 3}, "reference is 3; it must be a valid string"),
        (SELECTOR, {"input_key": 3}, "input_key is 3; pass the name of the template variable that holds the request"),
        (POSTPROCESSOR, {"show": "turn"}, "show is 'turn'; it must be 'nodes' or 'turns'"),
        (POSTPROCESSOR, {"mode": "x"}, "mode is 'x'; it must be 'examples', 'rerank' or 'both'"),
        (POSTPROCESSOR, {"keep_sources": "x"}, "keep_sources is 'x'; it must be a valid boolean"),
    ],
)
def test_an_argument_of_one_surface(surface, given, says):
    assert refusal(surface, **given) == says


@pytest.mark.parametrize("surface", [chat, llm])
def test_nothing_is_opened_before_the_fields_are_checked(surface, tmp_path):
    refusal(surface, store=f"sqlite:///{tmp_path}/pool.db", query_fn=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [ChatFromModel, LLMFromModel])
def test_a_model_is_given_with_or_without_its_name(kind):
    model = Scripted("fine")
    assert kind(model).model is kind(model=model).model is model
    assert kind(model, max_tokens=9).max_tokens == 9
    with pytest.raises(ConfigurationError, match=f"^{kind.__name__} needs model; pass"):
        kind()
    with pytest.raises(ConfigurationError, match=f"^{kind.__name__} takes no max_token; did you mean max_tokens"):
        kind(model, max_token=3)
    with pytest.raises(
        ConfigurationError, match=r"^model is a str, not a Model; pass one, such as HuggingFaceModel\('"
    ):
        kind("sk-SECRET")
    with pytest.raises(ConfigurationError, match="^max_tokens is 0; it must be greater than or equal to 1$"):
        kind(model, max_tokens=0)


@pytest.mark.parametrize(
    "model",
    [
        OpenAIModel("http://127.0.0.1:9/v1", "m"),
        iccache_langchain.as_model(FakeListChatModel(responses=["a"])),
        iccache_llamaindex.as_model(MockLLM()),
        HuggingFaceModel("no/such-model"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_takes_our_messages_only(model):
    with pytest.raises(ConfigurationError, match=f"{MESSAGES} dict in it$"):
        model.complete([{"role": "user", "content": "hi"}], max_tokens=5)
    with pytest.raises(ConfigurationError, match=f"{MESSAGES} str$"):
        model.complete("hi", max_tokens=5)


def test_a_stream_takes_our_messages_only():
    with pytest.raises(ConfigurationError, match=MESSAGES):
        next(HuggingFaceModel("no/such-model").stream([{"role": "user"}], max_tokens=5))


def test_a_feedback_event_is_checked_where_it_is_built():
    with pytest.raises(InvalidScore, match=r"a score must be a number in \[0, 1\]; got 2.0"):
        ICCacheFeedbackEvent(decision_id="0" * 32, score=2.0)
    assert refusal(ICCacheFeedbackEvent, decision_id=3, score=1.0) == "decision_id is 3; it must be a valid string"
    assert refusal(ICCacheFeedbackEvent, score=1.0).startswith("ICCacheFeedbackEvent needs decision_id; pass")
    assert refusal(ICCacheFeedbackEvent, decision_id="0" * 32, scor=1.0).endswith("takes no scor; did you mean score?")
    event = ICCacheFeedbackEvent(decision_id="0" * 32, score=1, tags={"a": "b"})
    assert (event.score, event.rater, event.tags) == (1.0, "user", {"a": "b"})


def test_a_prompt_takes_its_postprocessor_by_name():
    examples = POSTPROCESSOR()
    try:
        assert refusal(lambda: few_shot_prompt(examples)) == (
            "the template is an ICCachePostprocessor, neither a prompt nor a text; pass it by name: "
            "few_shot_prompt(examples=…)"
        )
        assert refusal(lambda: few_shot_prompt(3)).startswith(
            "the template is an int, neither a prompt nor a text; pass"
        )
        assert refusal(lambda: few_shot_prompt(examples=examples.engine)) == (
            "examples is an Engine; pass the engine's ICCachePostprocessor"
        )
        assert few_shot_prompt(examples=examples)
    finally:
        examples.close()


async def test_a_workflow_passes_an_engine_and_messages():
    examples = POSTPROCESSOR()
    try:
        for engine, kind in ((examples, "an ICCachePostprocessor"), (SECRET, "a str")):
            says = f"engine is {kind}; pass the engine of a surface, such as examples.engine"
            with pytest.raises(ConfigurationError, match=re.escape(says)):
                await with_examples(engine, "How?")
        for messages, kind in ((3, "an int"), ([{"role": "user"}], "a dict")):
            says = f"messages must be a text, or a list of ChatMessage; got {kind}"
            with pytest.raises(ConfigurationError, match=re.escape(says)):
                await with_examples(examples.engine, messages)
        assert (await with_examples(examples.engine, "How?")).messages[-1].content == "How?"
    finally:
        examples.close()


@pytest.mark.parametrize("surface", [chat, llm])
@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([{"input": "How?", "output": "So."}], "example 1 is a dict; pass a pair of two texts, (query, answer)"),
        ([("a", "b"), "ab"], "example 2 is a str; pass a pair of two texts, (query, answer)"),
        ([("a", "b", "c")], "example 1 is a tuple of a str, a str, a str; pass a pair of two texts, (query, answer)"),
        ([["a", 3]], "example 1 is a list of a str, an int; pass a pair of two texts, (query, answer)"),
        ("ab", "the examples are a str; pass a list of pairs (query, answer)"),
        (None, "the examples are None; pass a list of pairs (query, answer)"),
    ],
)
def test_examples_are_pairs_of_texts(surface, pairs, says):
    made = surface()
    assert refusal(lambda: made.add_examples(pairs)) == says  # a dict's keys were once stored as an example
    assert refusal(lambda: made.add_examples([("a", "b")], source="x")).startswith(
        "source is 'x'; pass one of traffic, "
    )
    made.close()


def test_examples_of_a_selector_are_dictionaries():
    selector = SELECTOR()
    for wrong, kind in (("x", "a str"), (("a", "b"), "a tuple")):
        says = f"an example is {kind}; pass dictionaries with the keys 'input' and 'output'"
        assert refusal(lambda wrong=wrong: selector.add_example(wrong)) == says
    says = "example 1 is a tuple of a str, an int; pass a pair of two texts, (query, answer)"
    assert refusal(lambda: selector.add_example({"input": "a", "output": 3})) == says
    selector.close()


def test_a_rater_has_a_name():
    made = chat()
    for wrong in (3, ""):
        said = refusal(lambda wrong=wrong: made.record_feedback("0" * 32, 1.0, rater=wrong))
        assert said == f"rater is {wrong!r}; pass a name, such as 'user'"
    made.close()


def test_an_endpoint_has_an_address_and_a_model():
    assert refusal(lambda: OpenAIModel("", "m")) == "base_url is ''; pass an address such as 'http://localhost:8000/v1'"
    assert refusal(lambda: OpenAIModel(3, "m")).startswith("base_url is 3; pass an address")
    assert refusal(lambda: OpenAIModel("http://a/v1", "")).startswith("model is ''; pass the name under which")


@pytest.mark.parametrize("arm", [Arm("large", "cheap"), Arm(3, 1.0)])
def test_an_arm_has_a_name_and_a_cost(arm):
    said = refusal(lambda: Engine(store="memory://", arms=[arm], reference="large"))
    assert said.endswith("needs a text as its name and a number as its cost, such as Arm('small', 0.1)")
