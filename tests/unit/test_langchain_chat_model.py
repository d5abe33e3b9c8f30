"""What `ICCacheChatModel` refuses when it is built, and how it describes itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda

from iccache_langchain import ICCacheChatModel
from iccache_langchain.calls import FREE
from shared_core.adapters.parameters import fingerprint_of, form_of
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from tests.embedding import Words


@pytest.fixture
def build():
    made = []

    def make(**wanted):
        arguments = {
            "arms": {"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()},
            "reference": "large",
            "costs": {"small": 0.1},
            "store": "memory://",
            "embedder": Words(),
            "background": False,
        }
        made.append(ICCacheChatModel(**(arguments | wanted)))
        return made[-1]

    yield make
    for model in made:
        model.close()


def test_its_repr_shows_no_arm_because_arms_hold_keys(build):
    secret = ParrotFakeChatModel(metadata={"key": "sk-SECRET"})
    assert "SECRET" not in repr(build(arms={"small": secret, "large": secret}))


FALLING_BACK = ParrotFakeChatModel().with_fallbacks([ParrotFakeChatModel()])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"reference": "huge"}, "huge.*not one of the arms"),
        ({"arms": [ParrotFakeChatModel()]}, "arms is a list; pass a dict"),
        ({"arms": {"large": ParrotFakeChatModel()}}, "at least two"),
        ({"costs": None}, "costs is missing 'small'"),
        ({"costs": {"small": 0.1, "tiny": 0.1}}, "tiny"),
        ({"costs": {"small": -0.1}}, "negative"),
        ({"styles": {"tiny": "paper"}}, "tiny"),
        ({"arms": {"small": ParrotFakeChatModel(cache=True), "large": ParrotFakeChatModel()}}, "small.*cache=None"),
        ({"arms": {"small": ParrotFakeChatModel(cache=InMemoryCache()), "large": ParrotFakeChatModel()}}, "cache"),
        (
            {
                "arms": {
                    "small": ParrotFakeChatModel(rate_limiter=InMemoryRateLimiter()),
                    "large": ParrotFakeChatModel(),
                }
            },
            "rate_limiter",
        ),
        ({"arms": {"small": ParrotFakeChatModel().bind(stop=["x"]), "large": ParrotFakeChatModel()}}, "binding"),
        ({"arms": {"small": RunnableLambda(str), "large": ParrotFakeChatModel()}}, "RunnableLambda.*the model itself"),
        ({"arms": {"small": ParrotFakeChatModel().with_retry(), "large": ParrotFakeChatModel()}}, "set max_retries on"),
        ({"arms": {"small": FALLING_BACK, "large": ParrotFakeChatModel()}}, "without .with_fallbacks"),
        ({"arms": {"small": ParrotFakeChatModel().bind(a=1), "large": ParrotFakeChatModel()}}, "instead of binding"),
        ({"arms": {"small": "gpt", "large": ParrotFakeChatModel()}}, "str"),
        ({"qualty_target": 0.5}, "did you mean quality_target"),
        ({"quality_target": 2}, "quality_target"),
        ({"strict_scope": True, "scope": "a"}, "strict_scope"),
        ({"scope": ""}, "scope"),
    ],
)
def test_misuse_is_refused_when_it_is_built(build, wanted, says):
    with pytest.raises(ConfigurationError, match=f"(?s){says}"):
        build(**wanted)


def test_settings_may_be_given_one_by_one_or_together(build):
    model = build(settings=Settings(explore=0.3, seed=7), quality_target=0.5)
    assert (model.engine.settings.explore, model.engine.settings.seed) == (0.3, 7)
    assert model.engine.settings.quality_target == 0.5


def test_arms_become_what_the_router_knows(build):
    arms = build(costs={"small": 0.2, "large": 3.0}, styles={"small": "paper"}).engine.arms
    assert (arms["small"].cost, arms["small"].style, arms["small"].uses_examples) == (0.2, "paper", True)
    assert (arms["large"].cost, arms["large"].style, arms["large"].uses_examples) == (3.0, "chat", False)


def test_a_client_parameter_is_pointed_to_the_arms(build):
    with pytest.warns(UserWarning, match="timeout"):
        build(timeout=3)


def test_tokens_are_counted_as_the_reference_counts_them(build):
    class ByWord(FakeListChatModel):
        def get_token_ids(self, text):
            return [len(word) for word in text.split()]

        def get_num_tokens_from_messages(self, messages, tools=None):
            return sum(1 + self.get_num_tokens(message.text) for message in messages)

    model = build(arms={"small": FakeListChatModel(responses=["s"]), "large": ByWord(responses=["l"])})
    assert model.get_token_ids("one two") == [3, 3]
    assert model.get_num_tokens("one two three") == 3
    assert model.get_num_tokens_from_messages([HumanMessage("one two"), AIMessage("three")]) == 5


def test_an_engine_is_shared_only_between_the_same_arms_and_closed_by_its_owner(build):
    owner = build()
    sharing = build(engine=owner.engine, store=None, embedder=None, costs=None)
    sharing.close()
    assert owner.invoke("hello").content == "hello"
    assert owner.flush(10)
    assert owner.engine.counters["writer.dropped"] == 0
    with pytest.raises(ConfigurationError, match="store"):
        build(engine=owner.engine)
    with pytest.raises(ConfigurationError, match="tiny"):
        arms = {"tiny": ParrotFakeChatModel(), "large": ParrotFakeChatModel()}
        build(engine=owner.engine, arms=arms, store=None, embedder=None, costs=None)


def test_a_configurable_field_makes_a_second_model_over_the_same_engine(build):
    model = build()
    field = model.configurable_fields(task=ConfigurableField(id="task"))
    answer = field.with_config(configurable={"task": "other"}).invoke("hello")
    assert answer.response_metadata["iccache"]["arm"] == "large"
    assert model.flush(10)
    assert model.engine.counters["admitted"] == 1


def test_a_router_names_itself_and_differs_from_another(build):
    one, other = build(), build(quality_target=0.4)
    assert one._get_llm_string() != other._get_llm_string()
    assert one._get_llm_string() == build()._get_llm_string()
    assert one._get_llm_string(iccache_run_id="x") == one._get_llm_string()
    assert one._get_llm_string(iccache_scope="x") != one._get_llm_string()
    assert one._llm_type == "iccache"
    assert one._get_ls_params()["ls_provider"] == "iccache"
    assert not one.is_lc_serializable()


def test_the_profile_is_what_all_arms_can_do(build):
    small = ParrotFakeChatModel(profile={"max_input_tokens": 100, "tool_calling": True, "image_inputs": True})
    large = ParrotFakeChatModel(profile={"max_input_tokens": 900, "tool_calling": True, "image_inputs": False})
    profile = build(arms={"small": small, "large": large}).profile
    assert profile == {"max_input_tokens": 100, "tool_calling": True, "image_inputs": False}
    assert build().profile is None


def test_a_completion_model_may_be_an_arm_and_is_not_offered_tools(build):
    arms = {"small": FakeListLLM(responses=["x"]), "large": FakeListLLM(responses=["  yes"])}
    model = build(arms=arms)
    assert model.invoke("hello").content == " yes"
    assert "".join(chunk.content for chunk in model.stream("hello")) == " yes"
    with pytest.raises(NotImplementedError, match="large"):
        model.bind_tools([])


def test_an_answer_is_a_fresh_message(build):
    class Same(FakeListChatModel):
        def _generate(self, *args, **kwargs):
            return RESULT

    RESULT = ParrotFakeChatModel()._generate([*ParrotFakeChatModel()._convert_input("x").to_messages()])
    model = build(arms={"small": Same(responses=[]), "large": Same(responses=[])})
    first, second = model.invoke("a"), model.invoke("b")
    assert first.response_metadata["iccache"]["decision_id"] != second.response_metadata["iccache"]["decision_id"]
    assert "iccache" not in RESULT.generations[0].message.response_metadata


def test_without_langchain_the_import_says_what_to_install():
    code = "import sys; sys.modules['langchain_core'] = None; import iccache_langchain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'iccache[langchain]'")


def test_every_parameter_that_may_bind_the_answer_is_part_of_the_form():
    assert form_of({"temperature": 0.5, "max_tokens": 9, "timeout": 3, "tools": []}, None, free=FREE) == ""
    forms = [
        form_of({"tools": [{"a": 1}]}, None),
        form_of({"tools": [{"a": 1}], "tool_choice": "any"}, None),
        form_of({"response_format": {"type": "json_object"}}, None),
        form_of({"response_format": Settings}, None),
        form_of({"extra_body": {"guided_json": {}}}, None),
        form_of({}, ["END"]),
        "",
    ]
    assert len(set(forms)) == len(forms)


def test_a_fingerprint_tells_every_argument_apart_and_holds_no_address():
    assert fingerprint_of({"temperature": 0.5}, None) != fingerprint_of({"temperature": 0.6}, None)
    assert fingerprint_of({}, ["a"]) != fingerprint_of({}, None)
    assert "0x" not in fingerprint_of({"response_format": Settings}, None)
