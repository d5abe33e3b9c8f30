"""How `ICCacheLLM` is constructed, and what it refuses."""

from __future__ import annotations

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate

from shared_core.errors import ConfigurationError


def test_metadata_is_what_holds_for_every_arm(build, arm):
    arms = {"small": arm("small", context_window=4000, max_tokens=256), "large": arm("large", max_tokens=1024)}
    metadata = build(arms=arms).metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (4000, 1024, "iccache")
    assert metadata.is_chat_model and metadata.is_function_calling_model
    assert not build(
        arms=arms | {"third": MockLLM()}, costs={"small": 0.1, "third": 0.1}
    ).metadata.is_function_calling_model


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"arms": [MockLLM()]}, "arms is a list; pass a dict"),
        ({"arms": {"large": MockLLM()}}, "at least two arms"),
        ({"arms": {"small": "gpt", "large": MockLLM()}}, "'small' is a str"),
        ({"reference": "big"}, "'big' is not one of the arms"),
        ({"costs": {}}, "costs is missing 'small'"),
        ({"max_example": 3}, "did you mean max_examples"),
        ({"max_examples": -1}, "max_examples"),
        ({"scope": "a", "strict_scope": True}, "no effect with strict_scope"),
        ({"rate_limiter": object()}, "each arm limits its own rate"),
        ({"completion_to_prompt": str}, "each arm formats prompts"),
        ({"arms": {"small": MockLLM(system_prompt="x"), "large": MockLLM()}}, "differ in system_prompt"),
    ],
)
def test_what_contradicts_itself_is_refused(build, wanted, match):
    with pytest.raises(ConfigurationError, match=match):
        build(**wanted)


def test_a_system_prompt_of_all_arms_is_the_routers(build, arm, server):
    arms = {name: arm(name, system_prompt="be brief") for name in ("small", "large")}
    build(arms=arms).predict(PromptTemplate("heat the kitchen"))
    assert server.asked[-1].turns == [("system", "be brief"), ("user", "heat the kitchen")]
